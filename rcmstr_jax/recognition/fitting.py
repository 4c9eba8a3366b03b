"""From an encoder and labelled words to a saved recogniser (METHOD.md 8)."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.recognition import feeds
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.features import calibrate_statistics, extract_features
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.task import Task
from rcmstr_jax.recognition.validation import Validation
from rcmstr_jax.recognition.words import TrainingWords
from rcmstr_jax.runtime.checkpoint import CHECKPOINTS
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition, source_fingerprint
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.loop import Feed, Job, Outcome, Watch, train
from rcmstr_jax.training.plan import EvaluationPlan, LabelledPlan, LoopPlan, model_plan
from rcmstr_jax.training.step_inputs import draw_branches

logger = logging.getLogger(__name__)
Tree = Any
# Words that show a random encoder the data when not all of them are held in memory.
CALIBRATION_WORDS = 4096
# Where the decoder learns alone before both do.
PROBE = "probe"


class Stopped(RuntimeError):
    """Training was asked to stop; its state is saved, and the same command goes on from there."""


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
    recognizer.save(workdir, position(task, task.chosen, task.plan.loop))
    if task.session.leads:  # the recogniser holds what they were for
        for folder in (workdir / CHECKPOINTS, workdir / PROBE):
            shutil.rmtree(folder, ignore_errors=True)
    return recognizer, task.chosen.texts


def train_recognizer(task: Task, chosen: TrainingWords, clock: Clock) -> Recognizer:
    """Trains the decoder on frozen frames, or encoder and decoder on images.

    Words are held in memory, as frames or as images, where they fit into `train.memory_gib`;
    else, and where they are augmented in front of a frozen encoder, they are read, decoded and,
    when the encoder is frozen, encoded again in every step.

    Raises:
      Stopped: by Ctrl-C or SIGTERM.
    """
    plan, encoder, head, labels = task.plan, task.encoder, task.head, task.plan.train
    number = len(chosen.subset)
    augmented = plan.frozen and labels.view_ops > 0  # then no word has the same frames twice
    in_memory = not augmented and _gib(plan, encoder, number) <= labels.memory_gib
    calibrate = plan.frozen and task.is_random and plan.calibrate_random_statistics
    images, texts = np.zeros((0, *encoder.image_size, 3), np.uint8), chosen.texts
    if in_memory or calibrate:
        limit = None if in_memory else CALIBRATION_WORDS
        images, texts = feeds.load_images(chosen, plan, encoder.image_size, limit)
    clock.mark("load")
    if calibrate:
        encoder = calibrate_statistics(encoder, images, plan)
    trained = None if plan.frozen else encoder
    decoder_params = task.decoder_params
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
        inputs = extract_features(encoder, images, plan) if plan.frozen else images
        feed = feeds.MemoryFeed({"inputs": inputs, **head.targets(texts)}, plan.loop, plan.seed)
        clock.mark("features")
    else:
        why = "augmented" if augmented else f"more than train.memory_gib={labels.memory_gib}"
        logger.info("words are streamed: they are %s", why)
        held = {"params": encoder.params, "batch_stats": encoder.batch_stats}
        constants = {"encoder": held} if plan.frozen else {}
        feed = feeds.StreamedFeed(chosen, head, encoder.image_size, plan, constants)
    watch = None
    if task.held_out is not None:
        images, known = feeds.load_images(task.held_out, plan, encoder.image_size)
        inputs = extract_features(encoder, images, plan) if plan.frozen else images
        watch = Validation(plan, trained, head, inputs, known)
    job = recognition_job(
        task,
        chosen,
        plan.loop,
        feed,
        encoder=trained,
        encode=None if plan.frozen and in_memory else encoding(encoder, frozen=plan.frozen),
        decoder_params=decoder_params,
        watch=watch,
    )
    outcome = finished(train(task.session, job), str(plan.loop.total_steps))
    clock.mark("train")
    weights, found, step = outcome.state.weights(), None, outcome.step
    if watch is not None:
        best = outcome.state.best
        weights, step = best["weights"], int(best["step"])
        accuracy, ned = (round(float(value), 4) for value in best["score"])
        found = {"word_accuracy": accuracy, "one_minus_ned": ned}
    if trained is not None:
        encoder = tuned(trained, weights)
    said = {
        "source": list(labels.source),
        "labels_asked": labels.labels,
        "labels": dataclasses.asdict(chosen.counts),
        "steps": plan.loop.total_steps,
        "batch_size": plan.loop.batch_size,
        "validation_words": 0 if task.held_out is None else len(task.held_out.subset),
        "validation": found,
    }
    description = describe(task, encoder, step, said)
    return Recognizer(
        encoder, head, weights["params"]["decoder"], description, plan.eval_batch_size
    )


class Described(Protocol):
    """A task of any head, trained on labels."""

    @property
    def plan(self) -> LabelledPlan: ...
    @property
    def is_random(self) -> bool: ...
    @property
    def run(self) -> dict[str, Any]: ...


def tuned(encoder: Encoder, weights: Tree) -> Encoder:
    """The encoder with the parameters and statistics that it was trained to."""
    return dataclasses.replace(
        encoder, params=weights["params"]["encoder"], batch_stats=weights["batch_stats"]
    )


def describe(
    task: Described, encoder: Encoder, steps: int, train: dict[str, Any]
) -> dict[str, Any]:
    """What a network says about itself, JSON-ready; `train` is what it was trained on."""
    return {
        "protocol": task.plan.protocol,
        "initialisation": "random_init" if task.is_random else "pretrained",
        "encoder": encoder.origin,
        "seed": task.plan.seed,
        "steps": steps,
        "train": train,
        "run": task.run,
    }


def probe_decoder(
    task: Task,
    chosen: TrainingWords,
    images: UInt8[np.ndarray, "words height width 3"],
    texts: list[str],
) -> Tree:
    """A decoder that knows the encoder's frames before the two are fine-tuned together.

    A fresh decoder sends arbitrary gradients into the encoder, which undo what pretraining taught
    it. Linear probing, then fine-tuning (LP-FT; Kumar et al., ICLR 2022, arXiv 2202.10054) trains
    the decoder alone first. It costs little: the frames are computed once. A run of its own in the
    workdir's folder `probe`, which goes on where it was interrupted.

    Raises:
      Stopped: by Ctrl-C or SIGTERM.
    """
    labels = dataclasses.replace(task.plan.train, average=0.0, weight_decay=0.0)
    plan, encoder = dataclasses.replace(task.plan, train=labels), task.encoder
    task = dataclasses.replace(task, plan=plan)
    if task.is_random and plan.calibrate_random_statistics:
        encoder = calibrate_statistics(encoder, images, plan)
    loop = dataclasses.replace(
        plan.loop,
        total_steps=labels.probe_steps,
        # Compiled loops suit a decoder on every platform; the encoder's convolutions do not.
        steps_per_call=min(10, labels.probe_steps),
        accumulation=1,
    )
    memory = {"inputs": extract_features(encoder, images, plan), **task.head.targets(texts)}
    feed = feeds.MemoryFeed(memory, loop, plan.seed)
    logger.info("the decoder alone: %d steps on frozen frames", loop.total_steps)
    job = recognition_job(
        task, chosen, loop, feed, encoder=None, encode=None, decoder_params=task.decoder_params
    )
    outcome = train(task.session, job, task.session.workdir / PROBE)
    outcome = finished(outcome, f"{loop.total_steps} of the decoder alone")
    return outcome.state.params["decoder"]


def encoding(encoder: Encoder, *, frozen: bool) -> rs.EncodeFn:
    """Images to frames within a step: with the step's own encoder, or with the one it is given."""

    def encode(params: Tree, stats: Tree, images: Any, constants: Any, **options: Any) -> Any:
        if not frozen:
            return encoder.train(params, stats, images, **options)
        held = constants["encoder"]
        return encoder.infer(held["params"], held["batch_stats"], images), stats

    return encode


def recognition_job(
    task: Task,
    chosen: TrainingWords,
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
      encoder: None when it is frozen.
      encode: see `recognition_step.make_step`.
      decoder_params: of a decoder that was trained before; None draws a fresh one.
    """
    head = task.head
    frames = (2, *task.encoder.frames_shape())

    def init(key: Array) -> Tree:
        return (
            jax.jit(head.init)(key, jnp.zeros(frames)) if decoder_params is None else decoder_params
        )

    return labelled_job(
        task.plan,
        loop,
        feed,
        loss=head.loss,
        init=init,
        encoder=encoder,
        encode=encode,
        run=task.run,
        position=position(task, chosen, loop),
        faults=chosen.faults,
        watch=watch,
    )


def labelled_job(
    plan: LabelledPlan,
    loop: LoopPlan,
    feed: Feed,
    *,
    loss: rs.LossFn,
    init: Callable[[Any], Tree],
    encoder: Encoder | None,
    encode: rs.EncodeFn | None,
    run: dict[str, Any],
    position: DataPosition,
    faults: FaultLog,
    watch: Watch | None = None,
) -> Job:
    """The same of any head.

    Args:
      loss: of a head.
      init: its parameters, of a key.
      encoder: None when it is frozen.
      encode: see `recognition_step.make_step`.
      run: what a continued run must agree in.
      position: see `Job`; so are `faults` and `watch`.
    """
    labels = plan.train
    optimizer, schedule = rs.recognition_optimizer(
        loop.total_steps, labels, encoder.params if encoder else None
    )
    branches = None
    if labels.drop_path and encoder is not None:
        depth = model_plan(encoder.origin["model"]).depth
        branches = functools.partial(draw_branches, depth=depth, rate=labels.drop_path)
    step = rs.make_step(
        loss,
        optimizer,
        schedule,
        encode=encode,
        view_ops=labels.view_ops if encode else 0,
        branches=branches,
        average=labels.average,
        accumulation=loop.accumulation,
        precision=plan.precision,
    )
    logger.info("products: %s", plan.precision.describe(plan.model.dtype))

    def fresh() -> rs.RecognitionState:
        key = jax.random.key(plan.seed)
        return rs.create_state(
            key,
            init(jax.random.fold_in(key, rs.INIT_PURPOSE)),
            optimizer,
            encoder_params=encoder.params if encoder else None,
            batch_stats=encoder.batch_stats if encoder else None,
            averaged=labels.average > 0,
            validated=watch is not None,
        )

    return Job(
        plan=loop,
        config=run,
        position=position,
        fresh=fresh,
        drawn=False,
        step=step,
        feed=feed,
        faults=faults,
        watch=watch,
        may_differ=False,
    )


def position(task: Task, chosen: TrainingWords, loop: LoopPlan) -> DataPosition:
    """Which words, in which order, at which batch size."""
    return DataPosition(source_fingerprint(chosen.subset), task.plan.seed, loop.batch_size)


def finished(outcome: Outcome, whole: str) -> Outcome:
    if outcome.finished:
        return outcome
    raise Stopped(
        f"saved after step {outcome.step} of {whole}; the same command goes on from there"
    )


def _gib(plan: EvaluationPlan, encoder: Encoder, number: int) -> float:
    """What the words take, as frames or as images, with their copies on the host's own devices."""
    copies = 1 + jax.local_device_count() if jax.default_backend() == "cpu" else 1
    frames, width = encoder.frames_shape()
    height, columns = encoder.image_size
    of_frames = frames * width * jnp.dtype(plan.train.feature_dtype).itemsize
    return copies * number * (of_frames if plan.frozen else 3 * height * columns) / 2**30


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
