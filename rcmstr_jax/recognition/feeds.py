"""Words on their way to the training step: held in memory, or read anew for every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.pipeline import eval_batches, train_batches
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.recognition.words import LabelCounts, Subset
from rcmstr_jax.training import recognition_step as rs

Tree = Any
Feed = Iterator[tuple[Tree, np.ndarray, np.ndarray]]
"""Calls' worth of (memory, rows, active), see `recognition_step.make_chunk`."""


@dataclasses.dataclass(frozen=True)
class TrainingWords:
    """The words to train on.

    Attributes:
      subset: their records.
      texts: their labels, as the charset normalises them.
      counts: what became of the others; brought up to date while images are decoded.
      faults: takes the images that cannot be decoded.
    """

    subset: Subset
    texts: list[str]
    counts: LabelCounts
    faults: FaultLog


def load_images(
    subset: Subset,
    texts: list[str],
    *,
    image_size: tuple[int, int],
    batch_size: int,
    workers: int,
    counts: LabelCounts,
    faults: FaultLog,
) -> tuple[UInt8[np.ndarray, "words height width 3"], list[str]]:
    """Decodes all words of a subset; those that cannot be decoded are left out and counted.

    Returns:
      uint8 images (N, 32, W, 3) and their N labels.

    Raises:
      ValueError: nothing can be decoded.
    """
    images: list[np.ndarray] = []
    kept: list[str] = []
    at = 0
    with eval_batches(
        subset, batch_size=batch_size, image_size=image_size, workers=workers, faults=faults
    ) as batches:
        for batch in batches:
            real, good = batch["weight"] > 0, batch["valid"]
            images.append(batch["image"][good])
            kept.extend(texts[at + i] for i in np.flatnonzero(good))
            counts.unreadable += int(real.sum() - good.sum())
            counts.trained_on -= int(real.sum() - good.sum())
            at += int(real.sum())
    stacked = np.concatenate(images)
    if not len(stacked):
        raise ValueError(
            f"train.source: none of the {at} images of {subset.name!r} can be decoded;"
            " faults.json in the workdir says why"
        )
    return stacked, kept


def memory_feed(memory: dict[str, Any], config: ConfigDict, start: int = 0) -> Feed:
    """Words that lie on the device: only the numbers of the words change between calls."""
    train = config.train
    per_call = min(train.steps_per_call, train.steps)
    num_words = len(memory["inputs"])
    on_device = jax.tree.map(jnp.asarray, memory)
    for first in range(start, train.steps, per_call):
        rows = rs.epoch_rows(config.seed, num_words, train.batch_size, first, per_call)
        yield on_device, rows, np.arange(first, first + per_call) < train.steps


def streamed_feed(
    subset: Subset,
    head: DecoderHead,
    image_size: tuple[int, int],
    config: ConfigDict,
    faults: FaultLog,
    start: int = 0,
) -> Feed:
    """Words that are read, decoded and moved to the device anew: each call has its own memory."""
    train = config.train
    per_call = min(train.steps_per_call, train.steps)
    rows = np.arange(per_call * train.batch_size, dtype=np.int32).reshape(per_call, -1)
    with train_batches(
        subset,
        batch_size=train.batch_size,
        image_size=image_size,
        seed=config.seed,
        start_step=start,
        workers=config.workers,
        with_text=True,
        faults=faults,
    ) as batches:
        for first in range(start, train.steps, per_call):
            drawn = [next(batches) for _ in range(per_call)]
            images = np.concatenate([batch["image"] for batch in drawn])
            labels = [head.charset.normalize(text) for batch in drawn for text in batch["text"]]
            active = np.arange(first, first + per_call) < train.steps
            yield {"inputs": images, **head.targets(labels)}, rows, active
