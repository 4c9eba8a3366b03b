"""Attention decoder: BiLSTM context, feature gate, additive attention LSTM (method section 8)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from rcmstr_jax.models.bilstm import BiLSTM, lstm_gates
from rcmstr_jax.models.linear import Linear, TypedModule, promote_dtype, uniform_within

Frames = Float[Array, "batch frames dim"]
Tokens = Int[Array, "batch steps"]
Logits = Float[Array, "batch steps classes"]


class AttentionReader(TypedModule):
    """An LSTM that attends over features and reads one character per step.

    Attributes:
      num_classes: classes, special tokens among them.
      hidden: width of attention and LSTM.
      feature_bias: whether the features' map into the attention has a bias.
    """

    num_classes: int
    hidden: int = 256
    feature_bias: bool = True

    @nn.compact
    def __call__(
        self,
        features: Frames,
        tokens: Tokens | None,
        steps: int,
        start_token: int | Array = 0,
    ) -> Logits:
        """Returns the logits of `steps` steps.

        Args:
          features: what is attended over.
          tokens: what the LSTM reads at each step (teacher forcing); None feeds back the
            likeliest token of the step before.
          steps: number of steps; the tokens' second axis where there are any.
          start_token: first token read without teacher forcing.
        """
        dim, gates = features.shape[-1], 4 * self.hidden
        query = Linear(self.hidden, self.feature_bias, **self.dtypes, name="feature_query")
        projected = query(features)
        init = uniform_within(self.hidden**-0.5)
        shapes = {
            "state_query_kernel": (self.hidden, self.hidden),
            "state_query_bias": (self.hidden,),
            "score": (self.hidden,),
            "weight_ih": (dim + self.num_classes, gates),
            "weight_hh": (self.hidden, gates),
            "bias_ih": (gates,),
            "bias_hh": (gates,),
            "generator_kernel": (self.hidden, self.num_classes),
            "generator_bias": (self.num_classes,),
        }
        parameters = [self.param(n, init, s, self.param_dtype) for n, s in shapes.items()]
        features, projected, *parameters = promote_dtype(
            features, projected, *parameters, dtype=self.dtype
        )
        kernel, bias, score, weight_ih, weight_hh, bias_ih, bias_hh, generator, offset = parameters
        # The LSTM reads [attended features; one-hot token]: a row of the kernel per token, with
        # both biases added once.
        of_features = weight_ih[:dim]
        of_tokens = weight_ih[dim:] + (bias_ih + bias_hh)[None]
        Carry = tuple[jax.Array, jax.Array, jax.Array]

        def step(carry: Carry, forced: jax.Array | None) -> tuple[Carry, Any]:
            hidden, cell, token = carry
            token = token if forced is None else forced
            query = (hidden @ kernel + bias[None])[:, None]
            energies = jnp.tanh(projected + query) @ score
            energies = energies.astype(np.promote_types(energies.dtype, np.float32))
            weights = jax.nn.softmax(energies).astype(features.dtype)
            attended = jnp.einsum("bt,btd->bd", weights, features)
            sums = attended @ of_features + of_tokens[token] + hidden @ weight_hh
            hidden, cell = lstm_gates(sums, cell)
            if forced is not None:
                return (hidden, cell, token), (hidden, weights)
            logits = hidden @ generator + offset[None]
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            return (hidden, cell, token), (logits, weights)

        batch = features.shape[0]
        zero = jnp.zeros((batch, self.hidden), features.dtype)
        start = jnp.zeros((batch,), jnp.int32) + jnp.asarray(start_token, jnp.int32)
        forced = None if tokens is None else rearrange(tokens, "b t -> t b").astype(jnp.int32)
        _, (outputs, weights) = jax.lax.scan(step, (zero, zero, start), forced, length=steps)
        outputs = rearrange(outputs, "t b c -> b t c")
        # (batch, steps, frames), for those who ask for the collection.
        self.sow("intermediates", "attention", rearrange(weights, "t b frames -> b t frames"))
        # Teacher-forced steps do not wait for the logits: one product for all of them.
        return outputs if tokens is None else outputs @ generator + offset[None, None]


class AttentionDecoder(TypedModule):
    """Reads frames one character at a time.

    Two BiLSTMs give every frame its context; contextual and visual features side by side are
    multiplied with a learnt linear function of themselves (the gate), and an `AttentionReader`
    reads the result.

    Attributes:
      num_classes: classes: `Charset.num_attention_classes`.
      hidden: width of BiLSTMs, attention and LSTM.
      context: width of the contextual features; None takes the frames' width.
      gated: False leaves out gate and visual features, and the bias of the features' map into the
        attention: the decoder of TPS-ResNet-BiLSTM-Attn, whose features are `hidden` wide.
    """

    num_classes: int
    hidden: int = 256
    context: int | None = None
    gated: bool = True

    def __call__(self, frames: Frames, tokens: Tokens) -> Logits:
        """Logits under teacher forcing.

        Args:
          tokens: what the LSTM reads at each step, [SOS] first: `encode_attention(...)[:, :-1]`.
        """
        return self._read(frames, tokens, tokens.shape[1], 0)

    def decode(
        self, frames: Frames, max_length: int, start_token: int | Int[Array, ""] = 2
    ) -> Logits:
        """Logits of greedy decoding, each step fed with the likeliest token of the step before.

        Args:
          max_length: number of steps: longest word plus one for [EOS].
          start_token: first token read; [SOS] by default. The published code starts from 0
            ([PAD]), which it never saw in training there (method section 9).
        """
        return self._read(frames, None, max_length, start_token)

    @nn.compact
    def _read(
        self, frames: Array, tokens: Array | None, steps: int, start_token: int | Array
    ) -> Logits:
        context = frames
        last = self.context or frames.shape[-1] if self.gated else self.hidden
        for i, width in enumerate((self.hidden, last)):
            context = BiLSTM(self.hidden, width, **self.dtypes, name=f"context_{i}")(context)
        features = context
        if self.gated:
            features = jnp.concatenate(promote_dtype(context, frames), axis=-1)
            gate = Linear(features.shape[-1], **self.dtypes, name="gate")(features)
            features = jnp.multiply(*promote_dtype(features, gate))
        reader = AttentionReader(
            self.num_classes, self.hidden, self.gated, **self.dtypes, name="reader"
        )
        return reader(features, tokens, steps, start_token)
