"""From an encoder and labelled words to a saved recogniser (METHOD.md 8)."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.recognition import feeds, words
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.features import calibrate_statistics, extract_features
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.recognition.recognizer import RECOGNIZER, Recognizer
from rcmstr_jax.recognition.validation import Validation
from rcmstr_jax.runtime.checkpoint import CHECKPOINTS
from rcmstr_jax.runtime.config_files import differences
from rcmstr_jax.runtime.digest import named_arrays, state_digest
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition, source_fingerprint
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.loop import Feed, Job, Session, train
from rcmstr_jax.training.plan import EvaluationPlan, LoopPlan

logger = logging.getLogger(__name__)
Tree = Any
# Words that show a random encoder the data when not all of them are held in memory.
CALIBRATION_WORDS = 4096
# Where the decoder learns alone before both do.
PROBE = "probe"
# Fields that change nothing of what is learnt.
BESIDE_TRAINING = (
    *("benchmarks", "policy", "compilation_cache", "workers", "seeds", "label_shares"),
    *("random_beside", "train.log_every", "train.checkpoint_every", "decoder.beams"),
)


class Stopped(RuntimeError):
    """Training was asked to stop; its state is saved, and the same command goes on from there."""


def identity(plan: EvaluationPlan, encoder: Encoder) -> dict[str, Any]:
    """What two runs must have in common to end in the same recogniser, JSON-ready."""
    fields = {k: dict(v) if isinstance(v, dict) else v for k, v in plan.config.items()}
    for name in BESIDE_TRAINING:
        *sections, field = name.split(".")
        holder = fields
        for section in sections:
            holder = holder[section]
        holder.pop(field)
    arrays = {"params": encoder.params, "batch_stats": encoder.batch_stats}
    digest = state_digest(named_arrays(arrays))
    return {**fields, "model": encoder.origin["model"], "encoder": digest}


@dataclasses.dataclass(frozen=True)
class Task:
    """A recogniser that is to be trained, or that has been.

    Attributes:
      plan: of the evaluation.
      session: the process and its workdir.
      encoder: to begin with.
      head: decoder and charset.
      is_random: whether the encoder is untrained.
      run: what a continued run must agree in, see `identity`.
      finished: the workdir's recogniser, if this run has finished one there; the rest is then None.
      chosen: words to train on.
      held_out: words for validation, None without.
    """

    plan: EvaluationPlan
    session: Session
    encoder: Encoder
    head: DecoderHead
    is_random: bool
    run: dict[str, Any]
    finished: Recognizer | None = None
    chosen: feeds.TrainingWords | None = None
    held_out: feeds.TrainingWords | None = None


def prepare(
    plan: EvaluationPlan,
    session: Session,
    encoder: Encoder,
    head: DecoderHead,
    source: RecordSource,
    *,
    is_random: bool,
) -> Task:
    """Finds the words to train on, or the recogniser that was already trained on them.

    Raises:
      ConfigError: the workdir holds another run.
      ValueError: no usable words.
    """
    run, workdir = identity(plan, encoder), session.workdir
    task = Task(plan, session, encoder, head, is_random, run)
    if (workdir / RECOGNIZER).is_dir():
        finished = Recognizer.from_checkpoint(
            workdir, batch_size=plan.eval_batch_size, beams=plan.decoder.beams
        )
        changed = differences(finished.description["run"], run)
        if changed:
            raise ConfigError(
                f"--workdir={workdir} holds a recogniser of another run ({'; '.join(changed[:8])}):"
                " use another --workdir, or remove that one"
            )
        logger.info("the recogniser of %s is finished: it is scored again", workdir)
        return dataclasses.replace(task, finished=finished)
    labels, faults = plan.train, session.faults()
    choose = functools.partial(
        words.choose_words,
        source,
        seed=plan.seed if labels.subset_seed is None else labels.subset_seed,
        charset=head.charset,
        max_length=head.max_length,
        held_out=labels.validation,
        faults=faults,
    )
    chosen = feeds.TrainingWords(*choose(labels=labels.labels), faults)
    logger.info("labels: %d words of %s", len(chosen.subset), source.name)
    held_out = None
    if labels.validation:
        held_out = feeds.TrainingWords(*choose(labels=1.0, at_end=True), faults)
        logger.info("validation: %d other words of %s", len(held_out.subset), source.name)
    return dataclasses.replace(task, chosen=chosen, held_out=held_out)


def obtain_recognizer(task: Task, clock: Clock) -> tuple[Recognizer, list[str] | None]:
    """Trains and saves a recogniser, unless that has been done.

    Returns:
      The recogniser, and the labels it was trained on; None for one that was finished before.

    Raises:
      Stopped: by Ctrl-C or SIGTERM.
    """
    if task.finished is not None:
        return task.finished, None
    assert task.chosen is not None  # as `prepare` leaves it
    recognizer = train_recognizer(task, task.chosen, clock)
    workdir = task.session.workdir
    recognizer.save(workdir, _position(task, task.chosen, task.plan.loop))
    if task.session.leads:  # the recogniser holds what they were for
        for folder in (workdir / CHECKPOINTS, workdir / PROBE):
            shutil.rmtree(folder, ignore_errors=True)
    return recognizer, task.chosen.texts


def train_recognizer(task: Task, chosen: feeds.TrainingWords, clock: Clock) -> Recognizer:
    """Trains the decoder on frozen frames, or encoder and decoder on images.

    Words are held in memory, as frames or as images, where they fit into `train.memory_gib`;
    else they are read, decoded and, when the encoder is frozen, encoded again in every step.

    Raises:
      Stopped: by Ctrl-C or SIGTERM.
    """
    plan, encoder, head, labels = task.plan, task.encoder, task.head, task.plan.train
    number = len(chosen.subset)
    in_memory = _gib(plan, encoder, number) <= labels.memory_gib
    calibrate = plan.frozen and task.is_random and plan.calibrate_random_statistics
    images, texts = np.zeros((0, *encoder.image_size, 3), np.uint8), chosen.texts
    if in_memory or calibrate:
        limit = number if in_memory else min(number, CALIBRATION_WORDS)
        images, texts = _load(chosen, encoder, plan, limit)
        logger.info("images: %d decoded", len(images))
    clock.mark("load")
    if calibrate:
        encoder = calibrate_statistics(
            encoder, images, batch_size=plan.eval_batch_size, seed=plan.seed
        )
    decoder_params = None
    if labels.probe_steps and not plan.frozen:
        if not in_memory:
            raise ConfigError(
                f"config.train.probe_steps={labels.probe_steps}: the decoder is first trained on"
                f" frames held in memory, but {number} words exceed config.train.memory_gib="
                f"{labels.memory_gib}; raise that, or set config.train.probe_steps=0"
            )
        decoder_params = probe_decoder(task, chosen, images, texts)
        clock.mark("probe")
    feed: Feed
    if in_memory:
        inputs = _features(plan, encoder, images) if plan.frozen else images
        feed = feeds.MemoryFeed({"inputs": inputs, **head.targets(texts)}, plan.loop, plan.seed)
        clock.mark("features")
    else:
        logger.info("words are streamed: they exceed train.memory_gib=%s", labels.memory_gib)
        held = {"params": encoder.params, "batch_stats": encoder.batch_stats}
        feed = feeds.StreamedFeed(
            chosen.subset,
            head,
            encoder.image_size,
            plan.loop,
            plan.seed,
            plan.workers,
            chosen.faults,
            {"encoder": held} if plan.frozen else {},
        )
    watch = None
    if task.held_out is not None:
        images, known = _load(task.held_out, encoder, plan, len(task.held_out.subset))
        watch = Validation(
            None if plan.frozen else encoder,
            head,
            _features(plan, encoder, images) if plan.frozen else images,
            known,
            batch_size=plan.eval_batch_size,
            policy=plan.policy,
            every=labels.validate_every,
            patience=labels.patience,
        )
    job = recognition_job(
        task,
        chosen,
        plan.loop,
        feed,
        encoder=None if plan.frozen else encoder,
        encode=None if plan.frozen and in_memory else encoding(encoder, frozen=plan.frozen),
        decoder_params=decoder_params,
        watch=watch,
    )
    outcome = train(task.session, job)
    if not outcome.finished:
        raise Stopped(
            f"saved after step {outcome.step} of {plan.loop.total_steps}; the same command goes on"
            " from there"
        )
    clock.mark("train")
    weights, found, step = outcome.state.weights(), None, outcome.step
    if watch is not None:
        best = outcome.state.best
        weights, step = best["weights"], int(best["step"])
        accuracy, ned = (round(float(value), 4) for value in best["score"])
        found = {"word_accuracy": accuracy, "one_minus_ned": ned}
    if not plan.frozen:
        encoder = dataclasses.replace(
            encoder, params=weights["params"]["encoder"], batch_stats=weights["batch_stats"]
        )
    description = {
        "protocol": plan.protocol,
        "initialisation": "random_init" if task.is_random else "pretrained",
        "encoder": encoder.origin,
        "seed": plan.seed,
        "steps": step,
        "train": {
            "source": list(labels.source),
            "labels_asked": labels.labels,
            "labels": chosen.counts.as_dict(),
            "steps": plan.loop.total_steps,
            "batch_size": plan.loop.batch_size,
            "validation_words": 0 if task.held_out is None else len(task.held_out.subset),
            "validation": found,
        },
        "run": task.run,
    }
    return Recognizer(
        encoder, head, weights["params"]["decoder"], description, plan.eval_batch_size
    )


def encoding(encoder: Encoder, *, frozen: bool) -> rs.EncodeFn:
    """Images to frames within a step: with the step's own encoder, or with the one it is given."""

    def with_constants(params: Tree, stats: Tree, images: Any, constants: Any) -> Any:
        held = constants["encoder"]
        return encoder.infer(held["params"], held["batch_stats"], images), stats

    def trained(params: Tree, stats: Tree, images: Any, constants: Any) -> Any:
        return encoder.train(params, stats, images)

    return with_constants if frozen else trained


def recognition_job(
    task: Task,
    chosen: feeds.TrainingWords,
    loop: LoopPlan,
    feed: Feed,
    *,
    encoder: Encoder | None,
    encode: rs.EncodeFn | None,
    decoder_params: Tree = None,
    watch: Validation | None = None,
) -> Job:
    """The job of the loop: a decoder, and `encoder` beside it where that is trained too.

    Args:
      task: what is trained.
      chosen: words to train on.
      loop: lengths.
      feed: the words on their way.
      encoder: None when it is frozen.
      encode: see `recognition_step.make_step`.
      decoder_params: of a decoder that was trained before; None draws a fresh one.
      watch: validation, None without.
    """
    labels, plan, head = task.plan.train, task.plan, task.head
    optimizer, schedule = rs.recognition_optimizer(
        loop.total_steps,
        learning_rate=labels.learning_rate,
        clip=labels.clip,
        warmup_share=labels.warmup_share,
        encoder_multiplier=labels.encoder_multiplier,
        weight_decay=labels.weight_decay,
        layer_decay=labels.layer_decay,
        encoder_params=encoder.params if encoder else None,
    )
    step = rs.make_step(
        head.loss,
        optimizer,
        schedule,
        encode=encode,
        view_ops=labels.view_ops if encoder else 0,
        average=labels.average,
        accumulation=loop.accumulation,
    )
    frames = (2, *task.encoder.frames_shape())

    def fresh() -> rs.RecognitionState:
        key = jax.random.key(plan.seed)
        decoder = decoder_params
        if decoder is None:
            init = jax.jit(head.init)
            decoder = init(jax.random.fold_in(key, rs.INIT_PURPOSE), jnp.zeros(frames))
        return rs.create_state(
            key,
            decoder,
            optimizer,
            encoder_params=encoder.params if encoder else None,
            batch_stats=encoder.batch_stats if encoder else None,
            averaged=labels.average > 0,
            validated=watch is not None,
        )

    return Job(
        plan=loop,
        config=task.run,
        position=_position(task, chosen, loop),
        fresh=fresh,
        drawn=False,
        step=step,
        feed=feed,
        faults=chosen.faults,
        watch=watch,
        may_differ=False,
    )


def probe_decoder(
    task: Task,
    chosen: feeds.TrainingWords,
    images: UInt8[np.ndarray, "words height width 3"],
    texts: list[str],
) -> Tree:
    """A decoder that knows the encoder's frames before the two are fine-tuned together.

    A fresh decoder sends arbitrary gradients into the encoder, which undo what pretraining taught
    it. Linear probing, then fine-tuning (LP-FT; Kumar et al., ICLR 2022, arXiv 2202.10054) trains
    the decoder alone first. It costs little: the frames are computed once. A run of its own in the
    workdir's folder `probe`, which goes on where it was interrupted.

    Returns:
      The decoder's parameters.

    Raises:
      Stopped: by Ctrl-C or SIGTERM.
    """
    labels = dataclasses.replace(task.plan.train, average=0.0, weight_decay=0.0)
    plan, encoder = dataclasses.replace(task.plan, train=labels), task.encoder
    task = dataclasses.replace(task, plan=plan)
    if task.is_random and plan.calibrate_random_statistics:
        encoder = calibrate_statistics(
            encoder, images, batch_size=plan.eval_batch_size, seed=plan.seed
        )
    loop = dataclasses.replace(
        plan.loop,
        total_steps=labels.probe_steps,
        # Compiled loops suit a decoder on every platform; the encoder's convolutions do not.
        steps_per_call=min(10, labels.probe_steps),
        accumulation=1,
    )
    memory = {"inputs": _features(plan, encoder, images), **task.head.targets(texts)}
    feed = feeds.MemoryFeed(memory, loop, plan.seed)
    logger.info("the decoder alone: %d steps on frozen frames", loop.total_steps)
    job = recognition_job(task, chosen, loop, feed, encoder=None, encode=None)
    outcome = train(task.session, job, task.session.workdir / PROBE)
    if not outcome.finished:
        raise Stopped(
            f"saved after step {outcome.step} of {loop.total_steps} of the decoder alone; the same"
            " command goes on from there"
        )
    return outcome.state.params["decoder"]


def _gib(plan: EvaluationPlan, encoder: Encoder, number: int) -> float:
    """What the words take in memory, as frames or as images."""
    frames, width = encoder.frames_shape()
    height, columns = encoder.image_size
    of_frames = frames * width * jnp.dtype(plan.train.feature_dtype).itemsize
    return number * (of_frames if plan.frozen else 3 * height * columns) / 2**30


def _features(plan: EvaluationPlan, encoder: Encoder, images: np.ndarray) -> np.ndarray:
    return extract_features(
        encoder, images, batch_size=plan.eval_batch_size, dtype=plan.train.feature_dtype
    )


def _load(
    chosen: feeds.TrainingWords, encoder: Encoder, plan: EvaluationPlan, limit: int
) -> tuple[np.ndarray, list[str]]:
    return feeds.load_images(
        chosen.subset.first(limit),
        chosen.texts,
        image_size=encoder.image_size,
        batch_size=plan.eval_batch_size,
        workers=plan.workers,
        counts=chosen.counts,
        faults=chosen.faults,
    )


def _position(task: Task, chosen: feeds.TrainingWords, loop: LoopPlan) -> DataPosition:
    return DataPosition(source_fingerprint(chosen.subset), task.plan.seed, loop.batch_size)


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
