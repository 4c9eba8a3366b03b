"""The training loop of a recogniser, over words in memory or words that are read anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.pipeline import eval_batches, train_batches
from rcmstr_jax.evaluation.words import LabelCounts, Subset, fit_case
from rcmstr_jax.training import recognition_step as rs

Log = Callable[[str], None]
Tree = Any
Feed = Iterator[tuple[Tree, np.ndarray, np.ndarray]]
"""Calls' worth of (memory, rows, active), see ``recognition_step.make_chunk``."""


def load_images(
    subset: Subset,
    texts: list[str],
    *,
    image_size: tuple[int, int],
    batch_size: int,
    workers: int,
    counts: LabelCounts,
    faults: FaultLog,
) -> tuple[np.ndarray, list[str]]:
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


def memory_feed(memory: dict[str, Any], config: ConfigDict) -> Feed:
    """Words that lie on the device: only the numbers of the words change between calls."""
    train = config.train
    per_call = min(train.steps_per_call, train.steps)
    num_words = len(memory["inputs"])
    on_device = jax.tree.map(jnp.asarray, memory)
    for first in range(0, train.steps, per_call):
        rows = rs.epoch_rows(config.seed, num_words, train.batch_size, first, per_call)
        yield on_device, rows, np.arange(first, first + per_call) < train.steps


def streamed_feed(
    subset: Subset,
    head: rs.DecoderHead,
    image_size: tuple[int, int],
    config: ConfigDict,
    faults: FaultLog,
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
        workers=config.workers,
        with_text=True,
        faults=faults,
    ) as batches:
        for first in range(0, train.steps, per_call):
            drawn = [next(batches) for _ in range(per_call)]
            images = np.concatenate([batch["image"] for batch in drawn])
            labels = [fit_case(text, head.charset) for batch in drawn for text in batch["text"]]
            active = np.arange(first, first + per_call) < train.steps
            yield {"inputs": images, **head.targets(labels)}, rows, active


def train_loop(
    chunk: Callable[..., tuple[rs.RecognitionState, dict[str, Any]]],
    state: rs.RecognitionState,
    feed: Feed,
    config: ConfigDict,
    log: Log,
) -> rs.RecognitionState:
    """Runs all steps, with a progress line every ``train.log_every`` of them.

    Raises:
      FloatingPointError: the loss is no longer a finite number.
    """
    train = config.train
    log("compiling the training step …")
    started = compiled = time.perf_counter()
    done = compiled_steps = logged = 0
    for memory, rows, active in feed:
        state, values = chunk(state, memory, rows, active)
        done += int(active.sum())
        if not compiled_steps:
            jax.block_until_ready(values)
            compiled, compiled_steps = time.perf_counter(), done
            log(f"compiled, with the first {done} steps, in {compiled - started:.1f} s")
        if done // train.log_every == logged and done < train.steps:
            continue
        logged = done // train.log_every
        losses = np.asarray(values["loss"])[active]
        if not np.isfinite(losses).all():
            raise FloatingPointError(
                f"the loss is not finite near step {done}: lower train.learning_rate"
                f"={train.learning_rate}, or set train.clip={train.clip} to a smaller norm"
            )
        seconds = time.perf_counter() - compiled
        speed = ""
        if done > compiled_steps:
            rate = (done - compiled_steps) / seconds
            speed = f", {rate * train.batch_size:.0f} words/s"
            speed += f", {(train.steps - done) / rate:.0f} s left"
        norm = np.asarray(values["grad_norm"])[active].mean()
        log(f"step {done}/{train.steps}: loss {losses.mean():.4f}, gradient {norm:.2f}{speed}")
    return state
