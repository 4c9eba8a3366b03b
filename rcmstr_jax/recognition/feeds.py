"""Words on their way to the training step: held in memory, or read anew for every step."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.pipeline import eval_batches, train_batches
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.recognition.words import LabelCounts, Subset
from rcmstr_jax.training.loop import Batch
from rcmstr_jax.training.plan import LoopPlan


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


@dataclasses.dataclass(frozen=True)
class MemoryFeed:
    """Words that lie on every device: only their numbers move.

    Attributes:
      memory: `inputs` and targets, a row per word.
      plan: of the loop.
      seed: of the order.
    """

    memory: Mapping[str, Any]
    plan: LoopPlan
    seed: int

    @property
    def constants(self) -> Mapping[str, Any]:
        """What every step reads."""
        return {"memory": dict(self.memory)}

    @contextlib.contextmanager
    def batches(self, start: int) -> Iterator[Iterator[Batch]]:
        """`rows` int32 and `index` int64 of this host's words."""
        yield self._calls(start)

    def _calls(self, start: int) -> Iterator[Batch]:
        plan, num_words = self.plan, len(self.memory["inputs"])
        share = plan.batch_size // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        for first in range(start, plan.total_steps, plan.steps_per_call):
            rows = epoch_rows(self.seed, num_words, plan.batch_size, first, plan.steps_per_call)
            places = first * plan.batch_size + np.arange(rows.size).reshape(rows.shape)
            call = {"rows": rows[:, mine], "index": places[:, mine]}
            yield call if plan.steps_per_call > 1 else {k: v[0] for k, v in call.items()}


@dataclasses.dataclass(frozen=True)
class StreamedFeed:
    """Words that are read, decoded and moved to the devices anew for every step.

    Attributes:
      subset: records to train on.
      head: makes the targets.
      image_size: (height, width) in pixels.
      plan: of the loop.
      seed: of the order.
      workers: processes that decode.
      faults: takes the records that cannot be used.
      constants: what every step reads, a frozen encoder's weights for example.
    """

    subset: Subset
    head: DecoderHead
    image_size: tuple[int, int]
    plan: LoopPlan
    seed: int
    workers: int
    faults: FaultLog
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def batches(self, start: int) -> Iterator[Iterator[Batch]]:
        """`inputs` uint8 images, `index` int64 and targets of this host's words."""
        with train_batches(
            self.subset,
            batch_size=self.plan.batch_size,
            image_size=self.image_size,
            seed=self.seed,
            start_step=start,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
            workers=self.workers,
            with_text=True,
            faults=self.faults,
        ) as records:
            yield self._calls(records)

    def _calls(self, records: Iterator[dict[str, Any]]) -> Iterator[Batch]:
        steps = self.plan.steps_per_call
        while True:
            calls = [self._targets(next(records)) for _ in range(steps)]
            yield {k: np.stack([c[k] for c in calls]) for k in calls[0]} if steps > 1 else calls[0]

    def _targets(self, batch: dict[str, Any]) -> Batch:
        texts = [self.head.charset.normalize(text) for text in batch["text"]]
        return {"inputs": batch["image"], "index": batch["index"], **self.head.targets(texts)}


def epoch_rows(
    seed: int, num_words: int, batch_size: int, first_step: int, steps: int
) -> np.ndarray:
    """Which words enter the steps `first_step ... first_step + steps - 1`.

    Words are shuffled anew in every epoch, and the epochs follow one another without a gap, so that
    every word is seen equally often and a batch may be larger than the set. A pure function of its
    arguments: a continued run draws the same rows.

    Returns:
      int32 (steps, batch_size), values in [0, num_words).
    """
    start, stop = first_step * batch_size, (first_step + steps) * batch_size
    epochs = range(start // num_words, (stop - 1) // num_words + 1)
    orders = [np.random.default_rng((seed, epoch)).permutation(num_words) for epoch in epochs]
    offset = start - epochs.start * num_words
    flat = np.concatenate(orders)[offset : offset + stop - start]
    return flat.astype(np.int32).reshape(steps, batch_size)
