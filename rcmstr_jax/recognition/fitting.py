"""From an encoder and labelled words to a saved recogniser."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.recognition import feeds, words
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.features import calibrate_statistics, extract_features
from rcmstr_jax.recognition.fit_loop import check_identity, fit
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.recognition.probing import probe_decoder
from rcmstr_jax.recognition.recognizer import RECOGNIZER, Recognizer
from rcmstr_jax.recognition.validation import make_validation
from rcmstr_jax.runtime.checkpoint import CHECKPOINTS
from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.digest import named_arrays, state_digest
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition, source_fingerprint
from rcmstr_jax.training import recognition_step as rs

Log = Callable[[str], None]
# Words that show a random encoder the data when not all of them are held in memory.
CALIBRATION_WORDS = 4096
# Fields that change nothing of what is learnt.
BESIDE_TRAINING = (
    *("benchmarks", "policy", "compilation_cache", "workers", "seeds", "label_shares"),
    *("random_beside", "train.log_every", "train.checkpoint_every", "decoder.beams"),
)


def identity(config: ConfigDict, encoder: Encoder) -> ConfigDict:
    """What two runs must have in common to end in the same recogniser."""
    fields = config_to_jsonable(config)
    for name in BESIDE_TRAINING:
        *sections, field = name.split(".")
        holder = fields
        for section in sections:
            holder = holder[section]
        holder.pop(field)
    arrays = {"params": encoder.params, "batch_stats": encoder.batch_stats}
    return ConfigDict(
        {**fields, "model": encoder.origin["model"], "encoder": state_digest(named_arrays(arrays))}
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """A recogniser that is to be trained, or that has been.

    Attributes:
      config: an evaluation config.
      workdir: of the evaluation.
      encoder: to begin with.
      head: decoder and charset.
      is_random: whether the encoder is untrained.
      run: what a continued run must agree in, see `identity`.
      finished: the workdir's recogniser, if this run has finished one there; the rest is then None.
      chosen: words to train on.
      held_out: words for validation, None without.
    """

    config: ConfigDict
    workdir: Path
    encoder: Encoder
    head: DecoderHead
    is_random: bool
    run: ConfigDict
    finished: Recognizer | None = None
    chosen: feeds.TrainingWords | None = None
    held_out: feeds.TrainingWords | None = None


def prepare(
    config: ConfigDict,
    workdir: Path,
    encoder: Encoder,
    head: DecoderHead,
    source: RecordSource,
    *,
    is_random: bool,
    faults: FaultLog,
    log: Log,
) -> Task:
    """Finds the words to train on, or the recogniser that was already trained on them.

    Raises:
      ConfigError: the workdir holds another run.
      ValueError: no usable words.
    """
    run = identity(config, encoder)
    task = Task(config, workdir, encoder, head, is_random, run)
    if (workdir / RECOGNIZER).is_dir():
        finished = Recognizer.from_checkpoint(
            workdir, batch_size=config.eval_batch_size, beams=config.decoder.beams
        )
        check_identity(ConfigDict(finished.description["run"]), run, workdir)
        log(f"the recogniser of {workdir} is finished: it is scored again")
        return dataclasses.replace(task, finished=finished)
    train = config.train
    choose = functools.partial(
        words.choose_words,
        source,
        seed=config.seed if train.subset_seed is None else train.subset_seed,
        charset=head.charset,
        max_length=head.max_length,
        held_out=train.validation,
        faults=faults,
    )
    chosen = feeds.TrainingWords(*choose(labels=train.labels), faults)
    log(f"labels: {len(chosen.subset)} words of {source.name}")
    held_out = None
    if train.validation:
        held_out = feeds.TrainingWords(*choose(labels=1.0, at_end=True), faults)
        log(f"validation: {len(held_out.subset)} other words of {source.name}")
    return dataclasses.replace(task, chosen=chosen, held_out=held_out)


def obtain_recognizer(task: Task, *, log: Log, clock: Clock) -> tuple[Recognizer, list[str] | None]:
    """Trains and saves a recogniser, unless that has been done.

    Returns:
      The recogniser, and the labels it was trained on; None for one that was finished before.
    """
    if task.finished is not None:
        return task.finished, None
    assert task.chosen is not None  # as `prepare` leaves it
    recognizer = train_recognizer(task, task.chosen, log=log, clock=clock)
    recognizer.save(task.workdir, _position(task.chosen.subset, task.config))
    # The recogniser holds what they were for.
    shutil.rmtree(task.workdir / CHECKPOINTS, ignore_errors=True)
    return recognizer, task.chosen.texts


def train_recognizer(
    task: Task, chosen: feeds.TrainingWords, *, log: Log, clock: Clock
) -> Recognizer:
    """Trains the decoder on frozen frames, or encoder and decoder on images.

    Words are held in memory, as frames or as images, where they fit into `train.memory_gib`;
    else they are read, decoded and, when the encoder is frozen, encoded again in every step.
    """
    config, encoder, head = task.config, task.encoder, task.head
    train, size, held_out = config.train, encoder.image_size, task.held_out
    frozen, number = config.protocol == "frozen", len(chosen.subset)
    frames, width = encoder.frames_shape()
    frame_bytes = frames * width * jnp.dtype(train.feature_dtype).itemsize
    gib = number * (frame_bytes if frozen else 3 * size[0] * size[1]) / 2**30
    in_memory = gib <= train.memory_gib
    calibrate = frozen and task.is_random and config.calibrate_random_statistics
    images, texts = np.zeros((0, *size, 3), np.uint8), chosen.texts
    if in_memory or calibrate:
        limit = number if in_memory else min(number, CALIBRATION_WORDS)
        images, texts = _load(chosen, encoder, config, limit)
        log(f"images: {len(images)} decoded")
    clock.mark("load")
    if calibrate:
        encoder = calibrate_statistics(
            encoder, images, batch_size=config.eval_batch_size, seed=config.seed
        )
    decoder_params = None
    if train.probe_steps and not frozen:
        if not in_memory:
            raise ConfigError(
                f"train.probe_steps={train.probe_steps}: the decoder is first trained on frames"
                f" held in memory, but {number} words exceed train.memory_gib={train.memory_gib};"
                " raise that, or set train.probe_steps=0"
            )
        decoder_params = probe_decoder(
            config, encoder, head, images, texts, is_random=task.is_random, log=log
        )
        clock.mark("probe")
    optimizer, schedule = rs.recognition_optimizer(
        train.steps,
        learning_rate=train.learning_rate,
        clip=train.clip,
        warmup_share=train.warmup_share,
        encoder_multiplier=train.encoder_multiplier,
        weight_decay=train.weight_decay,
        layer_decay=train.layer_decay,
        encoder_params=None if frozen else encoder.params,
    )
    state = rs.create_state(
        jax.random.key(config.seed),
        head,
        (frames, width),
        optimizer,
        encoder_params=None if frozen else encoder.params,
        batch_stats=None if frozen else encoder.batch_stats,
        averaged=train.average > 0,
        decoder_params=decoder_params,
    )
    encode = None if frozen and in_memory else (encoder.frozen if frozen else encoder.train)
    step = rs.make_step(
        head,
        optimizer,
        encode=encode,
        view_ops=0 if frozen else train.view_ops,
        average=train.average,
    )

    def features(images: np.ndarray) -> np.ndarray:
        return extract_features(
            encoder,
            images,
            batch_size=config.eval_batch_size,
            dtype=train.feature_dtype,
            log=log,
        )

    make_feed: Callable[[int], feeds.Feed]
    if in_memory:
        memory = {"inputs": features(images) if frozen else images, **head.targets(texts)}
        clock.mark("features")
        make_feed = functools.partial(feeds.memory_feed, memory, config)
    else:
        log(f"words are streamed: {gib:.1f} GiB exceed train.memory_gib={train.memory_gib}")
        arguments = (chosen.subset, head, size, config, chosen.faults)
        make_feed = functools.partial(feeds.streamed_feed, *arguments)
    validate = None
    if held_out is not None:
        images, labels = _load(held_out, encoder, config, len(held_out.subset))
        inputs = features(images) if frozen else images
        validate = make_validation(
            None if frozen else encoder, head, inputs, labels, config.eval_batch_size, config.policy
        )
    weights, outcome = fit(
        rs.make_chunk(step),
        state,
        make_feed,
        config,
        workdir=task.workdir,
        identity=task.run,
        position=_position(chosen.subset, config),
        schedule=schedule,
        validate=validate,
        log=log,
    )
    clock.mark("train")
    if not frozen:
        encoder = dataclasses.replace(
            encoder, params=weights["params"]["encoder"], batch_stats=weights["batch_stats"]
        )
    description = {
        "protocol": config.protocol,
        "initialisation": "random_init" if task.is_random else "pretrained",
        "encoder": encoder.origin,
        "seed": config.seed,
        "steps": outcome["steps"],
        "train": {
            "source": list(words.source_specs(config)),
            "labels_asked": train.labels,
            "labels": chosen.counts.as_dict(),
            "steps": train.steps,
            "batch_size": train.batch_size,
            "validation_words": 0 if held_out is None else len(held_out.subset),
            "validation": outcome.get("validation"),
        },
        "run": config_to_jsonable(task.run),
    }
    return Recognizer(
        encoder, head, weights["params"]["decoder"], description, config.eval_batch_size
    )


def _load(
    chosen: feeds.TrainingWords, encoder: Encoder, config: ConfigDict, limit: int
) -> tuple[np.ndarray, list[str]]:
    return feeds.load_images(
        chosen.subset.first(limit),
        chosen.texts,
        image_size=encoder.image_size,
        batch_size=config.eval_batch_size,
        workers=config.workers,
        counts=chosen.counts,
        faults=chosen.faults,
    )


def _position(subset: words.Subset, config: ConfigDict) -> DataPosition:
    return DataPosition(source_fingerprint(subset), config.seed, config.train.batch_size)


class Clock:
    """Seconds per part of a run."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._parts: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """Books the time since the last mark under `part`."""
        now = time.perf_counter()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def report(self) -> dict[str, float]:
        """Seconds by part, and `total`; rounded to tenths."""
        total = time.perf_counter() - self._start
        parts = {"load": 0.0, "features": 0.0, "train": 0.0, "score": 0.0} | self._parts
        return {name: round(value, 1) for name, value in (parts | {"total": total}).items()}
