"""Words on their way to the training step: held in memory, or read anew for every step."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.pipeline import train_batches
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.recognition.words import TrainingWords
from rcmstr_jax.training.loop import Batch
from rcmstr_jax.training.plan import EvaluationPlan, LoopPlan


def load_images(
    chosen: TrainingWords,
    plan: EvaluationPlan,
    image_size: tuple[int, int],
    limit: int | None = None,
) -> tuple[UInt8[np.ndarray, "words height width 3"], list[str]]:
    """Decodes words, the first `limit` of them; those that cannot be are left out and counted.

    Returns:
      uint8 images (N, 32, W, 3) and their N labels.

    Raises:
      ValueError: nothing can be decoded.
    """
    subset = chosen.subset.first(len(chosen.subset) if limit is None else limit)
    try:
        cache = DecodedCache.build(
            subset,
            image_size,
            workers=plan.workers,
            faults=chosen.faults,
            max_bytes=sys.maxsize,  # `train.memory_gib` has been asked
        )
    except ValueError as error:
        raise ValueError(
            f"train.source: none of the {len(subset)} images of {subset.name!r} can be decoded;"
            " faults.json in the workdir says why"
        ) from error
    lost = len(cache) - int(cache.valid.sum())
    chosen.counts.unreadable += lost
    chosen.counts.trained_on -= lost
    kept = zip(chosen.texts, cache.valid, strict=False)
    return cache.images[cache.valid], [text for text, valid in kept if valid]


@dataclasses.dataclass(frozen=True)
class MemoryFeed:
    """Words that lie on every device: only their numbers move.

    Attributes:
      memory: `inputs` and targets, arrays or tuples of them, a row per word.
      plan: of the loop.
      seed: of the order.
      beside: what else every step reads, a frozen encoder's weights for example.
    """

    memory: Mapping[str, Any]
    plan: LoopPlan
    seed: int
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def constants(self) -> Mapping[str, Any]:
        """What every step reads."""
        return {"memory": dict(self.memory), **self.beside}

    @contextlib.contextmanager
    def batches(self, start: int) -> Iterator[Iterator[Batch]]:
        """`rows` int32 and `index` int64 of this host's words."""
        yield self._calls(start)

    def _calls(self, start: int) -> Iterator[Batch]:
        plan, num_words = self.plan, len(jax.tree.leaves(dict(self.memory))[0])
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
      chosen: the words.
      head: makes the targets.
      image_size: (height, width) in pixels.
      plan: of the evaluation; its seed decides the order.
      constants: what every step reads, a frozen encoder's weights for example.
    """

    chosen: TrainingWords
    head: DecoderHead
    image_size: tuple[int, int]
    plan: EvaluationPlan
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def batches(self, start: int) -> Iterator[Iterator[Batch]]:
        """`inputs` uint8 images, `index` int64 and targets of this host's words."""
        with train_batches(
            self.chosen.subset,
            batch_size=self.plan.loop.batch_size,
            image_size=self.image_size,
            seed=self.plan.seed,
            start_step=start,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
            workers=self.plan.workers,
            with_text=True,
            faults=self.chosen.faults,
        ) as records:
            yield self._calls(records)

    def _calls(self, records: Iterator[dict[str, Any]]) -> Iterator[Batch]:
        steps = self.plan.loop.steps_per_call
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
