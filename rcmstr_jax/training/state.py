"""Everything a restart needs, in one pytree (host-side data position excepted: it is the step)."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import flax
import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict
from jaxtyping import Array, Int, PRNGKeyArray, UInt

from rcmstr_jax.models.rcmstr import FROZEN_PARTS, MOMENTUM_PARTS, RCMSTR
from rcmstr_jax.ssl.queue import KeyQueue, init_queue
from rcmstr_jax.training.plan import PretrainPlan

Variables = dict[str, Any] | FrozenDict

# Purposes folded into the base key before the first step; the step's own live in pretrain_step.
INIT_PURPOSE, _QUEUES, _RUN = 0, 1, 2


@flax.struct.dataclass
class TrainingState:
    """What every training goes on with.

    Attributes:
      step: optimiser steps done, also the position in the data.
      params: what is trained.
      batch_stats: running statistics of what is trained.
      opt_state: optimiser state of `params`.
      key_data: raw data of the base key; steps fold their number into it.
      skipped: steps skipped because loss or gradient was not finite.
      skipped_in_row: the same, since the last finite step.
    """

    step: Int[Array, ""]
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState
    key_data: UInt[Array, " words"]
    skipped: Int[Array, ""]
    skipped_in_row: Int[Array, ""]

    @property
    def step_key(self) -> PRNGKeyArray:
        """The key of the next step: the base key with the number of steps folded in."""
        return jax.random.fold_in(jax.random.wrap_key_data(self.key_data), self.step)


@flax.struct.dataclass
class PretrainState(TrainingState):
    """State of pretraining.

    Attributes:
      frozen_params: parameters no branch trains (the rectifier).
      momentum_params: EMA copy of encoder, projector and predictors.
      momentum_batch_stats: running statistics of the momentum branch.
      queues: keys by hierarchy.
    """

    frozen_params: Variables
    momentum_params: Variables
    momentum_batch_stats: Variables
    queues: dict[str, KeyQueue]


State = TypeVar("State", bound=TrainingState)


def keep_finite(
    proposed: State, old: State, metrics: dict[str, Any]
) -> tuple[State, dict[str, Any]]:
    """The one policy for steps without a finite loss or gradient: they change no array, and count.

    Args:
      proposed: the state after the step, but for its counters.
      old: the state before it.
      metrics: `loss` and `grad_norm` decide.

    Returns:
      `proposed` or `old`, with `step`, `skipped` and `skipped_in_row` brought up to date, and the
      metrics with both counts.
    """
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    kept: State = jax.tree.map(lambda new, was: jnp.where(finite, new, was), proposed, old)
    kept = dataclasses.replace(
        kept,
        step=old.step + 1,
        skipped=old.skipped + jnp.where(finite, 0, 1),
        skipped_in_row=jnp.where(finite, 0, old.skipped_in_row + 1),
    )
    counts = {"skipped": kept.skipped, "skipped_in_row": kept.skipped_in_row}
    return kept, {**metrics, **counts}


def select_parts(tree: Variables, parts: tuple[str, ...]) -> dict[str, Any]:
    """The named top-level parts of a parameter or statistics tree, where they exist."""
    return {name: tree[name] for name in parts if name in tree}


def fresh_state(
    plan: PretrainPlan, model: RCMSTR, optimizer: optax.GradientTransformation
) -> PretrainState:
    """The state that a run begins with: momentum branch equal to the online one, random queues.

    One compiled call; the plan's seed decides it, and gives the same encoder with and without MIM.
    """
    mask = None
    if plan.mask is not None:
        rows, columns = plan.mask.grid
        mask = jnp.arange(rows * columns).reshape(columns, rows).T >= plan.mask.visible
        mask = jnp.broadcast_to(mask, (2, rows, columns))

    @jax.jit
    def create(key: Array, images: Array, mask: Array | None) -> PretrainState:
        variables = model.init(jax.random.fold_in(key, INIT_PURPOSE), images, mask)
        trained = {k: v for k, v in variables["params"].items() if k not in FROZEN_PARTS}
        stats = dict(variables.get("batch_stats", {}))
        queues = {}
        for i, (name, size) in enumerate(sorted(plan.queue_sizes.items())):
            queue_key = jax.random.fold_in(jax.random.fold_in(key, _QUEUES), i)
            queues[name] = init_queue(queue_key, size, plan.model.predict_dim)
        copied = jax.tree.map(jnp.copy, select_parts(trained, MOMENTUM_PARTS))
        return PretrainState(
            step=jnp.zeros((), jnp.int32),
            params=trained,
            frozen_params=select_parts(variables["params"], FROZEN_PARTS),
            momentum_params=copied,
            batch_stats=stats,
            momentum_batch_stats=jax.tree.map(jnp.copy, stats),
            opt_state=optimizer.init(trained),
            queues=queues,
            key_data=jax.random.key_data(jax.random.fold_in(key, _RUN)),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_row=jnp.zeros((), jnp.int32),
        )

    # Images are an argument: of constants, the compiler would evaluate the whole network.
    return create(jax.random.key(plan.seed), jnp.zeros((2, *plan.model.image_size, 3)), mask)
