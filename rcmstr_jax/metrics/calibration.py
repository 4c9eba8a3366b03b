"""Reliability of confidences: is a word read right as often as the decoder says?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from rcmstr_jax.metrics.words import in_percent

BINS = 10


@dataclasses.dataclass(frozen=True)
class Bin:
    """Words of similar confidence, all rates in %.

    Attributes:
      low: confidences lie above it (0 itself is in the first bin).
      high: and not above this.
      num_words: how many.
      confidence: their mean.
      accuracy: share of them that was read right.
    """

    low: float
    high: float
    num_words: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Confidences beside what came true.

    Attributes:
      ece: expected calibration error in %: the mean over words of the gap between confidence and
        accuracy of the word's bin.
      num_words: how many.
      bins: those of ten of equal width that hold words.
    """

    ece: float
    num_words: int
    bins: list[Bin]


def calibration(words: Sequence[tuple[float, bool]]) -> Calibration | None:
    """Sorts words by their confidences.

    Args:
      words: per word its confidence in [0, 1] and whether it was read right.

    Returns:
      None for no words.

    Raises:
      ValueError: a confidence outside [0, 1].
    """
    if not words:
        return None
    groups: dict[int, list[tuple[float, bool]]] = {}
    for confidence, correct in words:
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence={confidence}: must lie in [0, 1]")
        groups.setdefault(max(math.ceil(confidence * BINS) - 1, 0), []).append(
            (confidence, correct)
        )
    bins, error = [], 0.0
    for number, found in sorted(groups.items()):
        mean = math.fsum(confidence for confidence, _ in found) / len(found)
        accuracy = sum(correct for _, correct in found) / len(found)
        error += abs(mean - accuracy) * len(found)
        low, high = in_percent(number / BINS), in_percent((number + 1) / BINS)
        bins.append(Bin(low, high, len(found), in_percent(mean), in_percent(accuracy)))
    return Calibration(in_percent(error / len(words)), len(words), bins)
