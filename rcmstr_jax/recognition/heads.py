"""A decoder together with its alphabet: text to targets, frames to a loss, frames to text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.models.decoders.attention import AttentionDecoder
from rcmstr_jax.models.decoders.ctc import CtcDecoder, ctc_greedy, ctc_loss
from rcmstr_jax.models.decoders.transformer import TransformerDecoder
from rcmstr_jax.models.linear import Linear

Tree = Any
Targets = Mapping[str, Any]
# "linear" is a CTC decoder of one linear map, a probe of what single frames hold.
DECODERS = ("ctc", "linear", "attention", "transformer")
BY_FRAME = ("ctc", "linear")


class Reading(NamedTuple):
    """What a decoder reads of n words.

    Attributes:
      tokens: classes by frame (CTC) or by step.
      probabilities: of each token.
      confidence: probability that the decoder gives the whole word; by steps the product over its
        characters and its [EOS], for CTC the sum over all alignments.
    """

    tokens: Int[Array, "batch length"]
    probabilities: Float[Array, "batch length"]
    confidence: Float[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Word:
    """A word that was read.

    Attributes:
      text: its characters.
      confidence: of the whole word, in [0, 1].
      characters: the confidence of each character.
    """

    text: str
    confidence: float
    characters: tuple[float, ...]


NO_WORD = Word("", 0.0, ())


@dataclasses.dataclass(frozen=True)
class DecoderHead:
    """A decoder together with its alphabet: the one thing that knows how text becomes targets.

    Attributes:
      name: one of `DECODERS`.
      module: the Flax module, (B, T, D) frames -> logits.
      charset: what it reads and writes.
      max_length: longest word, in characters.
      beams: words followed at a time by a transformer's search; 1 decodes greedily.
      sizes: the other arguments of `make_head`.
    """

    name: str
    module: nn.Module
    charset: Charset
    max_length: int
    beams: int = 1
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    def init(self, key: Array, frames: Float[Array, "batch frames dim"]) -> Tree:
        """Fresh parameters for frames of this shape."""
        if self.name in BY_FRAME:
            return self.module.init(key, frames)["params"]
        tokens = jnp.zeros((frames.shape[0], self.max_length + 1), jnp.int32)
        return self.module.init(key, frames, tokens)["params"]

    def targets(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Token arrays of n words, int32: what `loss` takes, one row per word."""
        if self.name in BY_FRAME:
            tokens, lengths = self.charset.encode_ctc(texts, self.max_length)
        else:
            tokens, lengths = self.charset.encode_attention(texts, self.max_length)
        return {"tokens": np.asarray(tokens, np.int32), "lengths": np.asarray(lengths, np.int32)}

    def loss(
        self, params: Tree, frames: Float[Array, "batch frames dim"], targets: Targets
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of the losses and what to divide it by (words for CTC, tokens for attention)."""
        tokens, lengths = targets["tokens"], targets["lengths"]
        if self.name in BY_FRAME:
            return ctc_loss(self._apply(params, frames), tokens, lengths)
        logits = self._apply(params, frames, tokens[:, :-1])
        wanted = tokens[:, 1:]
        per_token = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), wanted
        )
        weights = (wanted != self.charset.pad_token).astype(jnp.float32)
        return jnp.sum(per_token * weights), jnp.sum(weights)

    def read(self, params: Tree, frames: Float[Array, "batch frames dim"]) -> Reading:
        """Tokens and confidences of greedy decoding, or of the beam search."""
        if self.name in BY_FRAME:
            return Reading(*ctc_greedy(self._apply(params, frames)))
        steps, start = self.max_length + 1, self.charset.sos_token
        if self.beams > 1:
            arguments = (frames, steps, self.beams, start, self.charset.eos_token)
            tokens, logs = self._apply(params, *arguments, method="search")
        else:
            logits = self._apply(params, frames, steps, start, method="decode")
            tokens = jnp.argmax(logits, axis=-1)
            logs = jnp.max(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
        ended = tokens == self.charset.eos_token
        within = jnp.cumsum(ended, axis=1) - ended == 0  # up to the first [EOS], with it
        return Reading(tokens, jnp.exp(logs), jnp.exp(jnp.sum(logs * within, axis=1)))

    def _apply(self, params: Tree, *arguments: Any, method: str | None = None) -> Any:
        return self.module.apply({"params": params}, *arguments, method=method)

    def words(self, reading: Reading) -> list[Word]:
        """Texts with the confidence of every character.

        By frames, a character is as sure as the surest of its frames.
        """
        tokens, probabilities, confidence = (np.asarray(part) for part in reading)
        by_frame = self.name in BY_FRAME
        alphabet = self.charset.ctc_alphabet() if by_frame else self.charset.attention_alphabet()
        words = []
        for row, sure, whole in zip(tokens, probabilities, confidence, strict=True):
            if by_frame:
                begins = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
                row, sure = row[begins], np.maximum.reduceat(sure, begins)
            else:
                end = np.flatnonzero(row == self.charset.eos_token)
                stop = end[0] if len(end) else len(row)
                row, sure = row[:stop], sure[:stop]
            seen = [(alphabet[i], float(p)) for i, p in zip(row, sure, strict=True) if alphabet[i]]
            text = "".join(character for character, _ in seen)
            words.append(Word(text, float(whole), tuple(p for _, p in seen)))
        return words


def make_head(
    name: str,
    charset: Charset,
    *,
    hidden: int = 256,
    depth: int = 6,
    max_length: int = 25,
    beams: int = 1,
) -> DecoderHead:
    """The decoder called `name` for this alphabet.

    Args:
      name: one of `DECODERS`.
      charset: what it reads and writes.
      hidden: width of the decoder; "linear" has none.
      depth: blocks of a transformer.
      max_length: longest word, in characters.
      beams: see `DecoderHead`.

    Raises:
      ValueError: unknown name, or a search that the decoder does not have.
    """
    if beams > 1 and name != "transformer":
        raise ValueError(
            f"decoder.beams={beams} belongs to decoder.name='transformer': set it to 1 for {name!r}"
        )
    module: nn.Module
    if name == "ctc":
        module = CtcDecoder(num_classes=charset.num_ctc_classes, hidden=hidden)
    elif name == "attention":
        module = AttentionDecoder(num_classes=charset.num_attention_classes, hidden=hidden)
    elif name == "linear":
        module = Linear(charset.num_ctc_classes)
    elif name == "transformer":
        module = TransformerDecoder(charset.num_attention_classes, width=hidden, depth=depth)
    else:
        raise ValueError(f"decoder.name={name!r} is unknown: choose one of {', '.join(DECODERS)}")
    sizes = {"hidden": hidden, "depth": depth}
    return DecoderHead(name, module, charset, max_length, beams, sizes)
