"""Optimiser and learning-rate schedule of pretraining (METHOD.md 7)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rcmstr_jax.training.plan import OptimizerPlan


def make_schedule(plan: OptimizerPlan) -> optax.Schedule:
    """Linear warm-up, then constant, in steps of one tenth, or half a cosine to zero.

    Step s (from 0) of a warm-up over w steps has the share (s + 1) / w of the top rate, so that no
    step is idle and the last one has all of it.

    Returns:
      A function from the number of finished steps to the learning rate of the next one.
    """
    warmup = plan.warmup_steps
    rest = max(plan.total_steps - warmup, 1)
    if plan.schedule == "constant":
        main = optax.constant_schedule(plan.peak)
    elif plan.schedule == "cosine":
        main = optax.cosine_decay_schedule(plan.peak, rest)
    else:
        # Milestones are shares of the whole run; `main` counts from the end of the warm-up.
        drops = [max(round(share * plan.total_steps) - warmup, 0) for share in plan.milestones]
        main = optax.piecewise_constant_schedule(plan.peak, dict.fromkeys(drops, 0.1))
    if not warmup:
        return main
    rise = optax.linear_schedule(plan.peak / warmup, plan.peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, main], [warmup])


def decayed(params: Any) -> Any:
    """True for kernels, False for biases, normalisation and other vectors."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def make_optimizer(plan: OptimizerPlan) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimiser.

    SGD follows PyTorch: weight decay is added to the gradient, then momentum, then the rate. AdamW
    decays apart from the gradient.

    Returns:
      The transformation and the schedule (for logging).
    """
    schedule = make_schedule(plan)
    decay = optax.add_decayed_weights(
        plan.weight_decay, mask=None if plan.decay_vectors else decayed
    )
    if plan.name == "sgd":
        parts = [decay, optax.trace(plan.momentum) if plan.momentum else optax.identity()]
    else:
        parts = [optax.scale_by_adam(plan.b1, plan.b2), decay]
    if plan.clip:
        parts.insert(0, optax.clip_by_global_norm(plan.clip))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts), schedule
