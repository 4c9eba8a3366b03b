"""Optimiser and learning-rate schedule from the `optimizer` part of a config (method section 7)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def base_learning_rate(optimizer: ConfigDict, batch_size: int) -> float:
    """Learning rate at the top of the schedule, scaled linearly with the global batch."""
    if optimizer.reference_batch:
        return optimizer.learning_rate * batch_size / optimizer.reference_batch
    return optimizer.learning_rate


def make_schedule(optimizer: ConfigDict, total_steps: int, batch_size: int) -> optax.Schedule:
    """Linear warm-up, then constant, in steps of one tenth, or half a cosine to zero.

    Step s (from 0) of a warm-up over w steps has the share (s + 1) / w of the top rate, so that no
    step is idle and the last one has all of it.

    Args:
      optimizer: `config.optimizer`.
      total_steps: length of the run, warm-up included.
      batch_size: global batch.

    Returns:
      A function from the number of finished steps to the learning rate of the next one.

    Raises:
      ValueError: on an unknown schedule.
    """
    peak = base_learning_rate(optimizer, batch_size)
    warmup = optimizer.warmup_steps
    rest = max(total_steps - warmup, 1)
    if optimizer.schedule == "constant":
        main = optax.constant_schedule(peak)
    elif optimizer.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, rest)
    elif optimizer.schedule == "step":
        # Milestones are shares of the whole run; `main` counts from the end of the warm-up.
        drops = [max(round(share * total_steps) - warmup, 0) for share in optimizer.milestones]
        main = optax.piecewise_constant_schedule(peak, dict.fromkeys(drops, 0.1))
    else:
        raise ValueError(
            f"optimizer.schedule={optimizer.schedule!r}; use 'cosine', 'step' or 'constant'"
        )
    if not warmup:
        return main
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, main], [warmup])


def decayed(params: Any) -> Any:
    """True for kernels, False for biases, normalisation and other vectors."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def make_optimizer(
    optimizer: ConfigDict, total_steps: int, batch_size: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimiser.

    SGD follows PyTorch: weight decay is added to the gradient, then momentum, then the rate. AdamW
    decays apart from the gradient.

    Args:
      optimizer: `config.optimizer`.
      total_steps: length of the run.
      batch_size: global batch, for the linear scaling of the rate.

    Returns:
      The transformation and the schedule (for logging).

    Raises:
      ValueError: on an unknown optimiser or schedule.
    """
    schedule = make_schedule(optimizer, total_steps, batch_size)
    decay = optax.add_decayed_weights(
        optimizer.weight_decay, mask=None if optimizer.decay_vectors else decayed
    )
    if optimizer.name == "sgd":
        parts = [decay, optax.trace(optimizer.momentum) if optimizer.momentum else optax.identity()]
    elif optimizer.name == "adamw":
        parts = [optax.scale_by_adam(optimizer.b1, optimizer.b2), decay]
    else:
        raise ValueError(f"optimizer.name={optimizer.name!r}; use 'sgd' or 'adamw'")
    if optimizer.clip:
        parts.insert(0, optax.clip_by_global_norm(optimizer.clip))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts), schedule
