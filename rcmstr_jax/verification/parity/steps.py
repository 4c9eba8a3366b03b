"""A pretraining step in its two halves, with given views and permutation instead of drawn ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import einops
import jax
import optax
from jaxtyping import Array

from rcmstr_jax.ssl.momentum import ema_update
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.ssl.queue import enqueue
from rcmstr_jax.training.pretrain_step import encode_keys, online_losses

State = Any  # PretrainState; flax's `replace` is unknown to type checkers


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same between steps: network, both views, blocks, factor of the average."""

    network: Any
    images: tuple[Array, Array]
    blocks: int
    momentum: float

    def encode(self, state: State) -> tuple[State, dict[str, Array]]:
        """Momentum update, then keys, then queues: the first half of a step."""
        params = ema_update(state.momentum_params, state.params, self.momentum)
        variables = {"params": params, "batch_stats": state.momentum_batch_stats}
        keys, all_keys, statistics = encode_keys(self.network, variables, self.images[1])
        queues = {
            name: enqueue(queue, einops.rearrange(all_keys[name], "b n d -> (b n) d"))
            for name, queue in state.queues.items()
        }
        moved = {"momentum_params": params, "momentum_batch_stats": statistics, "queues": queues}
        return state.replace(**moved), keys

    def gradients(
        self,
        before: State,
        after: State,
        keys: dict[str, Array],
        permutation: Array,
        contrast: ContrastOptions,
    ) -> tuple[tuple[Array, Any], Any]:
        """The second half: (total loss, (running statistics, metrics)), and online gradients."""
        contents = {name: queue.keys for name, queue in after.queues.items()}
        view_q, view_k = self.images
        inputs = {"view_q": view_q, "view_k": view_k, "permutation": permutation}
        return jax.value_and_grad(online_losses, argnums=1, has_aux=True)(
            self.network,
            before.params,
            before,
            inputs,
            keys,
            contents,
            contrast=contrast,
            blocks=self.blocks,
        )

    def step(
        self,
        state: State,
        permutation: Array,
        contrast: ContrastOptions,
        optimizer: optax.GradientTransformation,
    ) -> tuple[State, Array]:
        """Both halves and the update; returns the loss as well."""
        after, keys = self.encode(state)
        (total, (statistics, _)), gradients = self.gradients(
            state, after, keys, permutation, contrast
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return after.replace(params=params, opt_state=opt_state, batch_stats=statistics), total
