"""The two halves of a pretraining step, with given views and permutation instead of drawn ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import jax
import optax
from jaxtyping import Array

from rcmstr_jax.ssl.momentum import ema_update
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.ssl.queue import enqueue
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import OptimizerPlan
from rcmstr_jax.training.pretrain_step import encode_keys, online_losses

State = Any  # PretrainState; flax's `replace` is unknown to type checkers
Step = Callable[[State, Array], tuple[State, Array]]


class Run(NamedTuple):
    """What stays the same between steps."""

    network: Any
    images: tuple[Array, Array]
    blocks: int


def encode(run: Run, state: State, momentum: float) -> tuple[State, dict[str, Array]]:
    """Momentum update, then keys, then queues: the first half of a step."""
    params = ema_update(state.momentum_params, state.params, momentum)
    variables = {"params": params, "batch_stats": state.momentum_batch_stats}
    keys, all_keys, statistics = encode_keys(run.network, variables, run.images[1])
    queues = {
        name: enqueue(queue, einops.rearrange(all_keys[name], "b n d -> (b n) d"))
        for name, queue in state.queues.items()
    }
    moved = state.replace(momentum_params=params, momentum_batch_stats=statistics, queues=queues)
    return moved, keys


def losses(
    run: Run,
    before: State,
    after: State,
    keys: dict[str, Array],
    permutation: Array,
    contrast: ContrastOptions,
) -> tuple[Array, Any]:
    """The second half of a step: total loss, and (running statistics, metrics)."""
    contents = {name: queue.keys for name, queue in after.queues.items()}
    inputs = {"view_q": run.images[0], "view_k": run.images[1], "permutation": permutation}
    return online_losses(
        run.network,
        before.params,
        before,
        inputs,
        keys,
        contents,
        contrast=contrast,
        blocks=run.blocks,
    )


def make_step(
    run: Run, state: State, contrast: ContrastOptions, learning_rate: float, momentum: float
) -> tuple[Step, Any]:
    """A step of SGD, and the optimiser's start state."""
    optimizer, _ = make_optimizer(OptimizerPlan(name="sgd", peak=learning_rate))

    @jax.jit
    def step(state: State, permutation: Array) -> tuple[State, Array]:
        after, keys = encode(run, state, momentum)

        def loss(params: Any) -> tuple[Array, Any]:
            return losses(run, state.replace(params=params), after, keys, permutation, contrast)

        (total, (statistics, _)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        after = after.replace(params=params, opt_state=opt_state, batch_stats=statistics)
        return after, total

    return step, optimizer.init(state.params)
