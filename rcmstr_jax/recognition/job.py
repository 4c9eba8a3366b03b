"""The job that the loop gets where a recogniser is trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rcmstr_jax.recognition import feeds
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.task import Task
from rcmstr_jax.recognition.validation import Validation
from rcmstr_jax.runtime.provenance import DataPosition, source_fingerprint
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.loop import Feed, Job
from rcmstr_jax.training.plan import LoopPlan

Tree = Any


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
        position=position(task, chosen, loop),
        fresh=fresh,
        drawn=False,
        step=step,
        feed=feed,
        faults=chosen.faults,
        watch=watch,
        may_differ=False,
    )


def position(task: Task, chosen: feeds.TrainingWords, loop: LoopPlan) -> DataPosition:
    """Which words, in which order, at which batch size."""
    return DataPosition(source_fingerprint(chosen.subset), task.plan.seed, loop.batch_size)
