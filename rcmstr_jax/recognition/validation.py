"""Scoring weights in the middle of training, on words that nothing is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.metrics import words as metrics
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.heads import DecoderHead

Tree = Any
Validate = Callable[[Mapping[str, Tree]], Mapping[str, float]]
"""Weights -> `word_accuracy` and `one_minus_ned` on the validation words, in %."""


def make_validation(
    encoder: Encoder | None,
    head: DecoderHead,
    inputs: np.ndarray,
    labels: list[str],
    batch_size: int,
    policy: str,
) -> Validate:
    """Scores weights on words that nothing is trained on.

    Args:
      encoder: what makes frames of `inputs`; None where they are frames.
      head: the decoder.
      inputs: frames, or uint8 images.
      labels: one per input.
      batch_size: inputs per call; the last one is filled up.
      policy: a key of `metrics.POLICIES`.
    """

    def reading(params: Tree, stats: Tree, batch: Any) -> Any:
        frames = encoder.infer(params["encoder"], stats, batch) if encoder else batch
        return head.read(params["decoder"], frames.astype(jnp.float32))

    compiled, size = jax.jit(reading), min(batch_size, len(inputs))

    def validate(weights: Mapping[str, Tree]) -> dict[str, float]:
        read: list[str] = []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            found = head.words(compiled(weights["params"], weights["batch_stats"], padded))
            read += [word.text for word in found[: len(batch)]]
        score = metrics.score_words(read, labels, policy=policy)
        return {
            "word_accuracy": 100 * score.word_accuracy,
            "one_minus_ned": 100 * score.one_minus_ned,
        }

    return validate
