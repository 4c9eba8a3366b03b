"""A decoder together with its alphabet: text to targets, frames to a loss, frames to text."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Int32, Key

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.models.decoders.attention import AttentionDecoder
from rcmstr_jax.models.decoders.ctc import CtcDecoder, ctc_greedy, ctc_loss
from rcmstr_jax.models.decoders.transformer import TransformerDecoder
from rcmstr_jax.models.linear import Linear
from rcmstr_jax.training.plan import DecoderPlan

Frames = Float[Array, "batch frames dim"]
Scalar = Float[Array, ""]

Tree = Any
Targets = Mapping[str, Any]
# "linear" is a CTC decoder of one linear map, a probe of what single frames hold; "plain_attention"
# is that of TPS-ResNet-BiLSTM-Attn, without a gate.
DECODERS = ("ctc", "linear", "attention", "plain_attention", "transformer")


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
class DecoderHead(abc.ABC):
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

    # Of the charset: texts to classes, and what each class reads as ("": nothing).
    _encode: ClassVar[Callable[..., tuple[np.ndarray, np.ndarray]]]
    _alphabet: ClassVar[Callable[..., list[str]]]

    @property
    def classes(self) -> int:
        """How many classes the decoder tells apart: its special tokens, then the characters."""
        return len(self.alphabet)

    @property
    def alphabet(self) -> list[str]:
        """What each class reads as, "" for those that write nothing."""
        return self._alphabet(self.charset)

    @abc.abstractmethod
    def init(self, key: Key[Array, ""], frames: Frames) -> Tree:
        """Fresh parameters for frames of this shape."""

    def targets(self, texts: Sequence[str]) -> dict[str, Int32[np.ndarray, "words *tokens"]]:
        """What `loss` takes, one row per word: `tokens` and `lengths`."""
        tokens, lengths = self._encode(self.charset, texts, self.max_length)
        return {"tokens": tokens, "lengths": lengths}

    @abc.abstractmethod
    def loss(self, params: Tree, frames: Frames, targets: Targets) -> tuple[Scalar, Scalar]:
        """Sum of the losses and what to divide it by: words for `FrameHead`, else tokens.

        Args:
          targets: from `targets`; a float `weight` (batch,) beside them multiplies the share of
            each word in both results. 0 leaves a word out, such as the padding of a batch.
        """

    @abc.abstractmethod
    def logits(self, params: Tree, frames: Frames) -> Float[Array, "batch length classes"]:
        """Of each frame, or of each step of greedy decoding."""

    @abc.abstractmethod
    def read(self, params: Tree, frames: Frames) -> Reading:
        """Tokens and confidences of greedy decoding, or of the beam search."""

    @abc.abstractmethod
    def _characters(self, tokens: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes and probabilities of the characters in one word's row of a reading."""

    def words(self, reading: Reading) -> list[Word]:
        """Texts with the confidence of every character."""
        alphabet = self.alphabet
        words = []
        for row, sure, whole in zip(*map(np.asarray, reading), strict=True):
            pairs = zip(*self._characters(row, sure), strict=True)
            seen = [(alphabet[i], float(p)) for i, p in pairs if alphabet[i]]
            text = "".join(character for character, _ in seen)
            words.append(Word(text, float(whole), tuple(p for _, p in seen)))
        return words

    def _apply(self, params: Tree, *arguments: Any, method: str | None = None) -> Any:
        return self.module.apply({"params": params}, *arguments, method=method)


class FrameHead(DecoderHead):
    """One class per frame (CTC): `ctc` and `linear`."""

    _encode = staticmethod(Charset.encode_ctc)
    _alphabet = staticmethod(Charset.ctc_alphabet)

    def init(self, key: Key[Array, ""], frames: Frames) -> Tree:
        return self.module.init(key, frames)["params"]

    def loss(self, params: Tree, frames: Frames, targets: Targets) -> tuple[Scalar, Scalar]:
        logits = self._apply(params, frames)
        weight = jnp.asarray(targets["weight"]) if "weight" in targets else None
        tokens, lengths = jnp.asarray(targets["tokens"]), jnp.asarray(targets["lengths"])
        return ctc_loss(logits, tokens, lengths, weight)

    def logits(self, params: Tree, frames: Frames) -> Float[Array, "batch length classes"]:
        return self._apply(params, frames)

    def read(self, params: Tree, frames: Frames) -> Reading:
        return Reading(*ctc_greedy(self.logits(params, frames)))

    def _characters(self, tokens: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A character is as sure as the surest of its frames.
        begins = np.flatnonzero(np.r_[True, tokens[1:] != tokens[:-1]])
        return tokens[begins], np.maximum.reduceat(sure, begins)


class TokenHead(DecoderHead):
    """One character after the other, to an [EOS]: both attentions and `transformer`."""

    _encode = staticmethod(Charset.encode_attention)
    _alphabet = staticmethod(Charset.attention_alphabet)

    def init(self, key: Key[Array, ""], frames: Frames) -> Tree:
        tokens = jnp.zeros((frames.shape[0], self.max_length + 1), jnp.int32)
        return self.module.init(key, frames, tokens)["params"]

    def loss(self, params: Tree, frames: Frames, targets: Targets) -> tuple[Scalar, Scalar]:
        tokens = jnp.asarray(targets["tokens"])
        logits, wanted = self._apply(params, frames, tokens[:, :-1]), tokens[:, 1:]
        per_token = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), wanted
        )
        weights = (wanted != self.charset.pad_token).astype(jnp.float32)
        if "weight" in targets:
            weights = weights * jnp.asarray(targets["weight"], jnp.float32)[:, None]
        return jnp.sum(per_token * weights), jnp.sum(weights)

    def logits(self, params: Tree, frames: Frames) -> Float[Array, "batch length classes"]:
        steps = self.max_length + 1
        return self._apply(params, frames, steps, self.charset.sos_token, method="decode")

    def read(self, params: Tree, frames: Frames) -> Reading:
        if isinstance(self.module, TransformerDecoder):
            steps, start = self.max_length + 1, self.charset.sos_token
            arguments = (frames, steps, self.beams, start, self.charset.eos_token)
            tokens, logs = self._apply(params, *arguments, method="search")
        else:
            logits = self.logits(params, frames)
            tokens = jnp.argmax(logits, axis=-1)
            logs = jnp.max(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
        ended = tokens == self.charset.eos_token
        # Up to the first [EOS], with it.
        within = jnp.cumsum(ended, axis=1, dtype=jnp.int32) == ended.astype(jnp.int32)
        whole = jnp.sum(logs, axis=1, where=within)
        return Reading(tokens, jnp.exp(logs), jnp.exp(whole))

    def _characters(self, tokens: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        end = np.flatnonzero(tokens == self.charset.eos_token)
        stop = end[0] if len(end) else len(tokens)
        return tokens[:stop], sure[:stop]


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
      hidden: width of the decoder; "linear" has none.
      depth: blocks of a transformer.
      max_length: longest word, in characters.

    Raises:
      ValueError: unknown name, or a search that the decoder does not have.
    """
    if beams > 1 and name != "transformer":
        raise ValueError(
            f"decoder.beams={beams} belongs to decoder.name='transformer': set it to 1 for {name!r}"
        )
    by_frame, by_token = charset.num_ctc_classes, charset.num_attention_classes
    sizes = {"hidden": hidden, "depth": depth}
    options = (charset, max_length, beams, sizes)
    if name == "ctc":
        return FrameHead(name, CtcDecoder(by_frame, hidden), *options)
    if name == "linear":
        return FrameHead(name, Linear(by_frame), *options)
    if name in ("attention", "plain_attention"):
        gated = name == "attention"
        return TokenHead(name, AttentionDecoder(by_token, hidden, gated=gated), *options)
    if name == "transformer":
        return TokenHead(name, TransformerDecoder(by_token, hidden, depth), *options)
    raise ValueError(f"decoder.name={name!r} is unknown: choose one of {', '.join(DECODERS)}")


def planned_head(plan: DecoderPlan) -> DecoderHead:
    """The decoder of a plan with its alphabet.

    Raises:
      ValueError: unknown charset.
    """
    charset = make_charset(plan.charset)
    sizes = {"hidden": plan.hidden, "depth": plan.depth}
    return make_head(plan.name, charset, max_length=plan.max_length, beams=plan.beams or 1, **sizes)


def make_charset(name: str) -> Charset:
    """The alphabet of `"36"`, `"62"`, `"68"` or `"94"` characters, or that of a text file.

    Raises:
      ValueError: another size, or a file that holds no charset.
    """
    return Charset.preset(int(name)) if str(name).isdecimal() else Charset.from_file(name)
