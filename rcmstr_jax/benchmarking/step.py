"""Whole steps of pretraining: contrast alone, and with the masked pass; and their views."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.augment.views import make_view
from rcmstr_jax.benchmarking.cases import (
    Case,
    Program,
    Settings,
    compiled_program,
    predicted_bytes,
    xla_operations,
)
from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.memory import return_freed_memory
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.pretrain_step import make_pretrain_step
from rcmstr_jax.training.state import fresh_state

# Fields of a pretraining config and their values -> the plan with them.
MakePlan = Callable[[Mapping[str, Any]], PretrainPlan]


def step_fields(settings: Settings, **mim: Any) -> dict[str, Any]:
    """What `settings` say about the fields of a pretraining config; `mim` are fields of that."""
    size: dict[str, Any] = {}
    if settings.model == "cnn":
        size = {"model.width": settings.width}
    elif settings.model != "compact":
        size = {"model.size": settings.model.removeprefix("vit-")}
    return {
        "batch_size": settings.batch,
        "model.image_width": settings.image_width,
        "model.dtype": settings.precision,
        "model.rectifier": settings.rectifier,
        "contrast.queue_size": settings.queue,
        "contrast.chunk": settings.chunk,
        **size,
        **{f"mim.{name}": value for name, value in mim.items()},
    }


def prepare_step(make_plan: Callable[[], PretrainPlan]) -> Program:
    """Compiles a step for all local devices; each repetition advances the state by one."""
    plan = make_plan()
    model = build_model(plan, parallel.AXIS)
    optimizer, schedule = make_optimizer(plan.optimizer)
    batch_size = plan.loop.batch_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *plan.model.image_size, 3))
    batch = parallel.shard_batch(
        {"image": pixels.astype(np.uint8), "index": np.arange(batch_size, dtype=np.int32)}
    )
    held = {"state": parallel.replicate(fresh_state(plan, model, optimizer))}
    return_freed_memory()  # as the training loop does
    step: Any = parallel.pmap_step(make_pretrain_step(plan, model, optimizer, schedule))
    program = step.lower(held["state"], batch).compile()
    count = matrix_operations(step, held["state"], batch)
    return_freed_memory()  # the compiler's, again as in the loop

    def run() -> None:
        # The old state's buffers are given away, as in the loop.
        held["state"], metrics = program(held["state"], batch)
        jax.block_until_ready((held["state"], metrics))

    devices = jax.local_device_count()
    return Program(run, xla_operations(program), count * devices, devices, predicted_bytes(program))


def step_cases(settings: Settings, make_plan: MakePlan) -> list[Case]:
    """Contrast alone, then the full method in every form that the encoder has.

    Args:
      settings: sizes.
      make_plan: of a pretraining config for this encoder; all that `settings` does not say is
        taken from it.
    """
    named: dict[str, dict[str, Any]] = {"contrast": {"enabled": False}}
    if settings.model == "cnn":
        for form in ("packed", "masked_dense"):
            named[f"contrast + mim, {form}"] = {"enabled": True, "form": form}
    else:
        form = "masked_dense" if settings.model == "compact" else "mask tokens"
        named[f"contrast + mim, {form}"] = {"enabled": True}
    return [
        Case(
            "step",
            name,
            # The plan is made by the process that runs the case.
            functools.partial(
                prepare_step, functools.partial(make_plan, step_fields(settings, **mim))
            ),
            settings.batch,
        )
        for name, mim in named.items()
    ]


def view_cases(settings: Settings) -> list[Case]:
    """One view of every image; a step draws two."""
    shape = (settings.batch, 32, settings.image_width, 3)

    def prepare() -> Program:
        images = jax.random.uniform(jax.random.key(0), shape, minval=-1.0, maxval=1.0)
        view = jax.jit(lambda key, x: make_view(key, x, indices=jnp.arange(settings.batch)))
        return compiled_program(view, jax.random.key(1), images)

    return [Case("views", "one view, up to 5 operations", prepare, settings.batch)]
