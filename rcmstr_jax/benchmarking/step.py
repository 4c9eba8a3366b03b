"""Whole steps of pretraining: contrast alone, and the full method with its masked pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.benchmarking.cases import (
    Case,
    Program,
    Settings,
    xla_operations,
)
from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.memory import return_freed_memory
from rcmstr_jax.training.build import build_model, image_size
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.pretrain_step import fresh_state, make_pretrain_step


def step_config(base: ConfigDict, settings: Settings, **mim: Any) -> ConfigDict:
    """`base` at the sizes of `settings`; `mim` are fields of its section of that name."""
    config = base.copy_and_resolve_references()
    with config.unlocked():
        config.batch_size = settings.batch
        config.model.image_width = settings.image_width
        config.model.dtype = settings.precision
        config.model.rectifier = settings.rectifier
        config.contrast.queue_size = settings.queue
        if settings.model == "cnn":
            config.model.width = settings.width
        else:
            config.model.size = settings.model.removeprefix("vit-")
        config.mim.update(mim)
    return config


def prepare_step(config: ConfigDict) -> Program:
    """Compiles a step for all local devices; each repetition advances the state by one."""
    model = build_model(config, parallel.AXIS if config.key_norm == "sync" else None)
    optimizer, schedule = make_optimizer(config.optimizer, config.total_steps, config.batch_size)
    pixels = np.random.default_rng(0).integers(0, 256, (config.batch_size, *image_size(config), 3))
    batch = parallel.shard_batch(
        {"image": pixels.astype(np.uint8), "index": np.arange(config.batch_size, dtype=np.int32)}
    )
    held = {"state": parallel.replicate(fresh_state(config, model, optimizer))}
    return_freed_memory()  # as the training loop does
    step: Any = parallel.pmap_step(make_pretrain_step(config, model, optimizer, schedule))
    program = step.lower(held["state"], batch).compile()
    count = matrix_operations(step, held["state"], batch)
    return_freed_memory()  # the compiler's, again as in the loop

    def run() -> None:
        # The old state's buffers are given away, as in the loop.
        held["state"], metrics = program(held["state"], batch)
        jax.block_until_ready((held["state"], metrics))

    devices = jax.local_device_count()
    return Program(run, xla_operations(program), count * devices, devices)


def cases(settings: Settings, base: ConfigDict) -> list[Case]:
    """Contrast alone, then the full method in every form that the encoder has.

    Args:
      settings: sizes.
      base: a pretraining config for this encoder; all that `settings` does not say is taken from
        it.
    """
    forms = ("packed", "masked_dense") if settings.model == "cnn" else ("mask tokens",)
    named: dict[str, dict[str, Any]] = {"contrast": {"enabled": False}}
    for form in forms:
        chosen = {"form": form} if settings.model == "cnn" else {}
        named[f"contrast + mim, {form}"] = {"enabled": True, **chosen}

    def prepare(mim: dict[str, Any]) -> Callable[[], Program]:
        return lambda: prepare_step(step_config(base, settings, **mim))

    return [Case("step", name, prepare(mim), settings.batch) for name, mim in named.items()]
