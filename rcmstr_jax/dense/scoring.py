"""Every image of every set through a network and through what stands beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from rcmstr_jax.data.dense.words import DenseArrays, DenseSource, read_words
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.dense.network import DenseNetwork
from rcmstr_jax.dense.results import Estimate, Row, SetScores, estimate
from rcmstr_jax.metrics import dense as metrics
from rcmstr_jax.metrics.words import judge_word
from rcmstr_jax.plotting.figures import save_comparison
from rcmstr_jax.recognition.recognizer import Recognizer

logger = logging.getLogger(__name__)
POLICY = "alphanumeric"
NETWORK = "network"
ROWS = 12  # of a sheet of pictures


def score_set(
    network: DenseNetwork,
    source: DenseSource,
    faults: FaultLog,
    picture: Path | None,
    recognizer: Recognizer | None = None,
) -> SetScores:
    """The network and its baseline on all images of a set.

    Args:
      network: to be scored.
      source: the set.
      faults: takes images that cannot be used; these are left out and counted.
      picture: PNG file of the first images; None for none.
      recognizer: reads words of all enlargements.

    Raises:
      ValueError: none of the images can be used.
    """
    words = read_words(source, faults=faults)
    segments = network.task == "segmentation"
    baseline = "Otsu" if segments else "bicubic"
    beside = (metrics.otsu_masks if segments else metrics.bicubic)(words.images)
    answers = {baseline: beside, NETWORK: network(words.images)}
    measure = segmentation_measures if segments else resolution_measures
    rows = {name: measure(found, words.targets) for name, found in answers.items()}
    known = [bool(label) for label in words.labels]
    if recognizer is not None and any(known):
        read = {"small image": words.images, **answers, "true image": words.targets}
        for name, images in read.items():
            found = {"words": words_right(recognizer, images, words.labels)}
            rows[name] = {**rows.get(name, {}), **found}
        rows = {name: rows[name] for name in read}
    if picture is not None:
        draw(picture, words, answers)
    logger.info("scored %s: %d images", source.name, len(words.images))
    return SetScores(
        source.name,
        len(words.images),
        len(source) - len(words.images),
        sum(known),
        [Row(name, measures) for name, measures in rows.items()],
    )


def words_right(recognizer: Recognizer, images: np.ndarray, labels: Sequence[str]) -> Estimate:
    """How many words of images are read as their labels say; those without one do not count."""
    read = recognizer(list(images))
    judged = [
        judge_word(word.text, label, policy=POLICY)
        for word, label in zip(read, labels, strict=True)
        if label
    ]
    right = np.array([outcome.correct for outcome in judged if outcome is not None], np.float64)
    return estimate("words", right, np.ones_like(right))


def draw(path: Path, words: DenseArrays, answers: Mapping[str, np.ndarray]) -> None:
    """Input, answers, truth and difference of the first images, a row each.

    In a difference of masks red is text that was missed, blue what is none.
    """
    baseline, found = answers.values()
    name = next(iter(answers))
    if words.targets.ndim == 3:
        change = words.targets.astype(np.int16) - found
        grey = 90 * (words.targets & found)
        difference = np.stack([np.where(change > 0, 255, grey), grey, grey], -1)
        difference[..., 2][change < 0] = 255
        columns = [255 * found, 255 * baseline, 255 * words.targets]
        columns = [np.repeat(column[..., None], 3, -1) for column in columns]
    else:
        difference = 128 + (found.astype(np.int16) - words.targets) // 2
        columns = [found, baseline, words.targets]
    size = columns[0].shape[2], columns[0].shape[1]
    shown = [
        cv2.resize(image, size, interpolation=cv2.INTER_NEAREST) for image in words.images[:ROWS]
    ]
    titles = ("input", NETWORK, name, "truth", "difference")
    pictures = (np.stack(shown), *columns, difference.astype(np.uint8))
    save_comparison(path, dict(zip(titles, (p[:ROWS] for p in pictures), strict=True)))


def segmentation_measures(found: np.ndarray, truth: np.ndarray) -> dict[str, Estimate]:
    """Of all pixels of a set together; the interval draws images."""
    counts = metrics.mask_counts(found, truth)
    return {
        name: estimate(name, *metrics.mask_ratio(counts, name)) for name in metrics.MASK_METRICS
    }


def resolution_measures(found: np.ndarray, truth: np.ndarray) -> dict[str, Estimate]:
    """Means over the images."""
    values = {"psnr": metrics.psnr(found, truth), "ssim": metrics.ssim(found, truth)}
    ones = np.ones(len(truth))
    return {name: estimate(name, value, ones) for name, value in values.items()}
