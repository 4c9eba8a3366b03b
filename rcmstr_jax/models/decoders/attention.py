"""Attention decoder: BiLSTM context, feature gate, additive attention LSTM (method section 8)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float, Int

from rcmstr_jax.models.bilstm import BiLSTM, lstm_gates
from rcmstr_jax.models.linear import Linear, uniform_within


class AttentionDecoder(nn.Module):
    """Reads frames one character at a time.

    Two BiLSTMs give every frame its context; contextual and visual features side by side are
    multiplied with a learnt linear function of themselves (the gate); an LSTM attends over the
    result and reads the token before.

    Attributes:
        num_classes: classes: `Charset.num_attention_classes`.
        hidden: width of BiLSTMs, attention and LSTM.
        context: width of the contextual features; None takes the frames' width.
        dtype: dtype of the computation; None takes the promoted dtype of input and parameters.
    """

    num_classes: int
    hidden: int = 256
    context: int | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def _run(
        self,
        frames: Float[Array, "batch frames dim"],
        tokens: Int[Array, "steps batch"] | None,
        steps: int,
        start_token: int,
    ) -> Float[Array, "batch steps classes"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        widths = (self.hidden, self.context or frames.shape[-1])
        context = frames
        for i, width in enumerate(widths):
            context = BiLSTM(self.hidden, width, **dtypes, name=f"context_{i}")(context)
        features = jnp.concatenate([context, frames], axis=-1)
        features = features * Linear(features.shape[-1], **dtypes, name="gate")(features)
        projected = Linear(self.hidden, **dtypes, name="frame_to_attention")(features)

        dim, gates = features.shape[-1], 4 * self.hidden
        bound = self.hidden**-0.5
        init = uniform_within(bound)
        parameters = [
            self.param("state_to_attention_kernel", init, (self.hidden,) * 2, self.param_dtype),
            self.param("state_to_attention_bias", init, (self.hidden,), self.param_dtype),
            self.param("score", init, (self.hidden,), self.param_dtype),
            self.param("weight_ih", init, (dim + self.num_classes, gates), self.param_dtype),
            self.param("weight_hh", init, (self.hidden, gates), self.param_dtype),
            self.param("bias_ih", init, (gates,), self.param_dtype),
            self.param("bias_hh", init, (gates,), self.param_dtype),
            self.param("generator_kernel", init, (self.hidden, self.num_classes), self.param_dtype),
            self.param("generator_bias", init, (self.num_classes,), self.param_dtype),
        ]
        features, projected, *parameters = promote_dtype(
            features, projected, *parameters, dtype=self.dtype
        )
        kernel, bias, score, weight_ih, weight_hh, bias_ih, bias_hh, generator, offset = parameters
        # The LSTM reads [attended features; one-hot token]: a row of the kernel per token, with
        # both biases added once.
        of_features = weight_ih[:dim]
        of_tokens = weight_ih[dim:] + (bias_ih + bias_hh)
        Carry = tuple[jax.Array, jax.Array, jax.Array]

        def step(carry: Carry, forced: jax.Array | None) -> tuple[Carry, jax.Array]:
            hidden, cell, token = carry
            token = token if forced is None else forced
            query = (hidden @ kernel + bias)[:, None]
            energies = jnp.tanh(projected + query) @ score
            energies = energies.astype(jnp.promote_types(energies.dtype, jnp.float32))
            weights = jax.nn.softmax(energies).astype(features.dtype)
            attended = jnp.einsum("bt,btd->bd", weights, features)
            sums = attended @ of_features + of_tokens[token] + hidden @ weight_hh
            hidden, cell = lstm_gates(sums, cell)
            logits = hidden @ generator + offset
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            return (hidden, cell, token), hidden if forced is not None else logits

        batch = frames.shape[0]
        zero = jnp.zeros((batch, self.hidden), features.dtype)
        start = jnp.full((batch,), start_token, jnp.int32)
        _, outputs = jax.lax.scan(step, (zero, zero, start), tokens, length=steps)
        outputs = jnp.swapaxes(outputs, 0, 1)
        # Teacher-forced steps do not wait for the logits: one product for all of them.
        return outputs if tokens is None else outputs @ generator + offset

    def __call__(
        self, frames: Float[Array, "batch frames dim"], tokens: Int[Array, "batch steps"]
    ) -> Float[Array, "batch steps classes"]:
        """Logits under teacher forcing.

        Args:
            frames: frozen or trained encoder frames.
            tokens: what the LSTM reads at each step, [SOS] first: `encode_attention(...)[:, :-1]`.
        """
        return self._run(frames, jnp.swapaxes(tokens, 0, 1), tokens.shape[1], 0)

    def decode(
        self, frames: Float[Array, "batch frames dim"], max_length: int, start_token: int = 2
    ) -> Float[Array, "batch steps classes"]:
        """Logits of greedy decoding, each step fed with the likeliest token of the step before.

        Args:
            frames: encoder frames.
            max_length: number of steps: longest word plus one for [EOS].
            start_token: first token read; [SOS] by default. The published code starts from 0
                ([PAD]), which it never saw in training there (method section 9).
        """
        return self._run(frames, None, max_length, start_token)
