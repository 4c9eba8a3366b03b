"""A decoder together with its alphabet: text to targets, frames to a loss, frames to text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.models.decoders.attention import AttentionDecoder
from rcmstr_jax.models.decoders.ctc import CtcDecoder, ctc_loss

Tree = Any
Targets = Mapping[str, Any]
DECODERS = ("ctc", "attention")


@dataclasses.dataclass(frozen=True)
class DecoderHead:
    """A decoder together with its alphabet: the one thing that knows how text becomes targets.

    Attributes:
      name: one of ``DECODERS``.
      module: the Flax module, (B, T, D) frames -> logits.
      charset: what it reads and writes.
      max_length: longest word, in characters.
    """

    name: str
    module: nn.Module
    charset: Charset
    max_length: int

    def init(self, key: Array, frames: Float[Array, "batch frames dim"]) -> Tree:
        """Fresh parameters for frames of this shape."""
        if self.name == "ctc":
            return self.module.init(key, frames)["params"]
        tokens = jnp.zeros((frames.shape[0], self.max_length + 1), jnp.int32)
        return self.module.init(key, frames, tokens)["params"]

    def targets(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Token arrays of n words, int32: what ``loss`` takes, one row per word."""
        if self.name == "ctc":
            tokens, lengths = self.charset.encode_ctc(texts, self.max_length)
        else:
            tokens, lengths = self.charset.encode_attention(texts, self.max_length)
        return {"tokens": np.asarray(tokens, np.int32), "lengths": np.asarray(lengths, np.int32)}

    def loss(
        self, params: Tree, frames: Float[Array, "batch frames dim"], targets: Targets
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of the losses and what to divide it by (words for CTC, tokens for attention)."""
        tokens, lengths = targets["tokens"], targets["lengths"]
        if self.name == "ctc":
            return ctc_loss(self._apply(params, frames), tokens, lengths)
        logits = self._apply(params, frames, tokens[:, :-1])
        wanted = tokens[:, 1:]
        per_token = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), wanted
        )
        weights = (wanted != self.charset.pad_token).astype(jnp.float32)
        return jnp.sum(per_token * weights), jnp.sum(weights)

    def predict(
        self, params: Tree, frames: Float[Array, "batch frames dim"]
    ) -> Int[Array, "batch length"]:
        """Greedy token indices."""
        if self.name == "ctc":
            return jnp.argmax(self._apply(params, frames), axis=-1)
        steps, start = self.max_length + 1, self.charset.sos_token
        return jnp.argmax(self._apply(params, frames, steps, start, method="decode"), axis=-1)

    def _apply(self, params: Tree, *arguments: Any, method: str | None = None) -> Any:
        return self.module.apply({"params": params}, *arguments, method=method)

    def texts(self, tokens: Int[np.ndarray, "batch length"]) -> list[str]:
        """Strings of the greedy token indices."""
        tokens = np.asarray(tokens)
        if self.name == "ctc":
            return self.charset.decode_ctc(tokens)
        return self.charset.decode_attention(tokens)


def make_head(
    name: str, charset: Charset, *, hidden: int = 256, max_length: int = 25
) -> DecoderHead:
    """The decoder called ``name`` for this alphabet.

    Raises:
      ValueError: unknown name.
    """
    module: nn.Module
    if name == "ctc":
        module = CtcDecoder(num_classes=charset.num_ctc_classes, hidden=hidden)
    elif name == "attention":
        module = AttentionDecoder(num_classes=charset.num_attention_classes, hidden=hidden)
    else:
        raise ValueError(f"decoder.name={name!r} is unknown: choose one of {', '.join(DECODERS)}")
    return DecoderHead(name=name, module=module, charset=charset, max_length=max_length)
