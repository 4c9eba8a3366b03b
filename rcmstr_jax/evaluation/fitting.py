"""Fitting a recogniser to labelled words, held in memory or read anew in every step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.pipeline import eval_batches, train_batches
from rcmstr_jax.evaluation.encoders import Encoder
from rcmstr_jax.evaluation.features import calibrate_statistics, extract_features
from rcmstr_jax.evaluation.scoring import Recognizer
from rcmstr_jax.evaluation.words import LabelCounts, Subset, fit_case
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.decoder_head import DecoderHead

Log = Callable[[str], None]
Tree = Any
Feed = Iterator[tuple[Tree, np.ndarray, np.ndarray]]
"""Calls' worth of (memory, rows, active), see ``recognition_step.make_chunk``."""
# Words that show a random encoder the data when not all of them are held in memory.
CALIBRATION_WORDS = 4096


@dataclasses.dataclass(frozen=True)
class TrainingWords:
    """The words to train on.

    Attributes:
      subset: their records.
      texts: their labels, in the charset's case.
      counts: what became of the others; brought up to date while images are decoded.
      faults: takes the images that cannot be decoded.
    """

    subset: Subset
    texts: list[str]
    counts: LabelCounts
    faults: FaultLog


def train_recognizer(
    config: ConfigDict,
    encoder: Encoder,
    head: DecoderHead,
    chosen: TrainingWords,
    *,
    is_random: bool,
    log: Log,
    clock: Clock,
) -> Recognizer:
    """Trains the decoder on frozen frames, or encoder and decoder on images.

    Words are held in memory, as frames or as images, where they fit into ``train.memory_gib``;
    else they are read, decoded and, when the encoder is frozen, encoded again in every step.
    """
    train, size = config.train, encoder.image_size
    frozen, number = config.protocol == "frozen", len(chosen.subset)
    frames, width = encoder.frames_shape()
    frame_bytes = frames * width * jnp.dtype(train.feature_dtype).itemsize
    gib = number * (frame_bytes if frozen else 3 * size[0] * size[1]) / 2**30
    in_memory = gib <= train.memory_gib
    calibrate = frozen and is_random and config.calibrate_random_statistics
    images, texts = np.zeros((0, *size, 3), np.uint8), chosen.texts
    if in_memory or calibrate:
        limit = number if in_memory else min(number, CALIBRATION_WORDS)
        images, texts = load_images(
            chosen.subset.first(limit),
            texts,
            image_size=size,
            batch_size=config.eval_batch_size,
            workers=config.workers,
            counts=chosen.counts,
            faults=chosen.faults,
        )
        log(f"images: {len(images)} decoded")
    clock.mark("load")
    if calibrate:
        encoder = calibrate_statistics(
            encoder, images, batch_size=config.eval_batch_size, seed=config.seed
        )
    optimizer, _ = rs.recognition_optimizer(
        train.steps,
        learning_rate=train.learning_rate,
        clip=train.clip,
        warmup_share=train.warmup_share,
        encoder_multiplier=train.encoder_multiplier,
    )
    state = rs.create_state(
        jax.random.key(config.seed),
        head,
        (frames, width),
        optimizer,
        encoder_params=None if frozen else encoder.params,
        batch_stats=None if frozen else encoder.batch_stats,
    )
    encode = None if frozen and in_memory else (encoder.frozen if frozen else encoder.train)
    step = rs.make_step(head, optimizer, encode=encode, view_ops=0 if frozen else train.view_ops)
    if in_memory:
        inputs = images
        if frozen:
            inputs = extract_features(
                encoder,
                images,
                batch_size=config.eval_batch_size,
                dtype=train.feature_dtype,
                log=log,
            )
            clock.mark("features")
        feed = memory_feed({"inputs": inputs, **head.targets(texts)}, config)
    else:
        log(f"words are streamed: {gib:.1f} GiB exceed train.memory_gib={train.memory_gib}")
        feed = streamed_feed(chosen.subset, head, size, config, chosen.faults)
    state = train_loop(rs.make_chunk(step), state, feed, config, log)
    clock.mark("train")
    if not frozen:
        encoder = dataclasses.replace(
            encoder, params=state.params["encoder"], batch_stats=state.batch_stats
        )
    return Recognizer(encoder=encoder, head=head, decoder_params=state.params["decoder"])


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
    head: DecoderHead,
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


class Clock:
    """Seconds per part of a run."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._parts: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """Books the time since the last mark under ``part``."""
        now = time.perf_counter()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def report(self) -> dict[str, float]:
        """Seconds by part, and ``total``; rounded to tenths."""
        total = time.perf_counter() - self._start
        parts = {"load": 0.0, "features": 0.0, "train": 0.0, "score": 0.0} | self._parts
        return {name: round(value, 1) for name, value in (parts | {"total": total}).items()}
