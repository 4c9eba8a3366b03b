"""CTC decoder: two BiLSTMs and a linear map (method section 8), with its loss."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.linear import Linear, TypedModule

BLANK = 0


class CtcDecoder(TypedModule):
    """Two stacked BiLSTMs, then one logit per frame and class.

    Attributes:
      num_classes: classes, the blank (class 0) among them: `Charset.num_ctc_classes`.
      hidden: width of the BiLSTMs.
    """

    num_classes: int
    hidden: int = 256

    @nn.compact
    def __call__(self, frames: Float[Array, "batch frames dim"]) -> Float[Array, "b frames class"]:
        context = BiLSTMProjector(hidden=self.hidden, **self.dtypes, name="context")(frames)
        return Linear(self.num_classes, **self.dtypes, name="generator")(context)


def ctc_loss(
    logits: Float[Array, "batch frames classes"],
    labels: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    weights: Float[Array, " batch"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Connectionist temporal classification, each word's loss divided by its length.

    A word that no alignment can spell (longer, with its repeats, than there are frames) has an
    infinite loss; it counts as 0 and has no gradient, but it does count as a word. The quotient of
    both results is what `torch.nn.CTCLoss(zero_infinity=True)` calls `mean`.

    Args:
      logits: before the softmax; computed in float32 at least.
      labels: tokens as from `Charset.encode_ctc`; what lies beyond `lengths` is not read.
      lengths: characters per word.
      weights: 0 for padding of the batch.

    Returns:
      (sum over words, number of words), the latter also a float.
    """
    batch, frames, _ = logits.shape
    beyond = jnp.arange(labels.shape[1], dtype=lengths.dtype)[None] >= lengths[:, None]
    losses = _negative_logs(logits, jnp.where(beyond, BLANK, labels), beyond)
    repeated = (labels[:, 1:] == labels[:, :-1]) & ~beyond[:, 1:]
    repeats = jnp.sum(repeated, axis=1, dtype=lengths.dtype)
    per_character = losses / jnp.maximum(lengths, 1).astype(losses.dtype)
    losses = jnp.where(lengths + repeats <= frames, per_character, 0)
    weights = jnp.ones(batch, losses.dtype) if weights is None else weights.astype(losses.dtype)
    return jnp.sum(losses * weights), jnp.sum(weights)


def ctc_greedy(
    logits: Float[Array, "batch frames classes"],
) -> tuple[Int[Array, "batch frames"], Float[Array, "batch frames"], Float[Array, " batch"]]:
    """The likeliest class of every frame, and how sure the decoder is of what they spell.

    Args:
      logits: before the softmax; computed in float32 at least.

    Returns:
      Classes, their probabilities, and per word the probability of its text: the sum over all
      alignments that spell it, not that of the likeliest alignment alone.
    """
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    batch, frames, _ = logits.shape
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=BLANK)
    begins = (tokens != BLANK) & (tokens != before)
    # The characters side by side at the beginning of their row, as the loss takes labels.
    place = jnp.where(begins, jnp.cumsum(begins, axis=1) - 1, frames)
    rows = jnp.arange(batch)[:, None]
    labels = jnp.full((batch, frames), BLANK, tokens.dtype).at[rows, place].set(tokens, mode="drop")
    beyond = jnp.arange(frames)[None] >= jnp.sum(begins, axis=1, keepdims=True)
    whole = jnp.exp(-_negative_logs(logits, labels, beyond))
    return tokens, jnp.max(jax.nn.softmax(logits), axis=-1), whole


def _negative_logs(logits: Array, labels: Array, beyond: Array) -> Array:
    """Of the probability of all alignments, per word; in float32 at least, all frames counted."""
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    padding = jnp.zeros(logits.shape[:2], logits.dtype)
    return optax.ctc_loss(logits, padding, labels, beyond.astype(logits.dtype), blank_id=BLANK)
