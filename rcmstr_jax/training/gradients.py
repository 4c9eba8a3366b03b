"""How strongly each part of the objective pulls at the encoder, to judge λ by (METHOD.md 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.pretrain_step import add_keys, encode_keys, loss_options, online_losses
from rcmstr_jax.training.state import PretrainState
from rcmstr_jax.training.step_inputs import draw_inputs

Norms = dict[str, Float[Array, ""]]


def split_loss(
    metrics: Mapping[str, Array], contrast: ContrastOptions, weight: float
) -> dict[str, Array]:
    """The objective's summands by what they are for, weighted as they enter it.

    Args:
      metrics: of `online_losses`.
      contrast: weights of the contrastive terms.
      weight: of the masked term.

    Returns:
      Of `within` (contrast within hierarchies), `relations` (within them), `between` (all of the
      pairs) and `masked` those that there are; their sum is the loss.
    """
    alpha, beta = contrast.alpha, contrast.beta
    parts = {
        "within": [metrics[f"nce/{name}"] for name in contrast.hierarchies],
        "relations": [
            alpha * metrics[f"relation_kl/{name}"]
            for name in contrast.hierarchies
            if contrast.relation
        ],
        "between": [
            factor * metrics[f"{kind}/{pair}"]
            for pair in contrast.pairs
            for kind, factor in (("nce", beta), ("relation_kl", alpha))
            if f"{kind}/{pair}" in metrics
        ],
        "masked": [weight * metrics["loss/mim"]] if "loss/mim" in metrics else [],
    }
    return {name: sum(terms[1:], terms[0]) for name, terms in parts.items() if terms}


def term_gradients(
    plan: PretrainPlan, model: RCMSTR
) -> Callable[[PretrainState, Mapping[str, Array]], Norms]:
    """`(state, batch) -> {"gradient/within": ...}`: norms of the encoder's gradient, part by part.

    Args:
      plan: of the run.
      model: built without a device axis.

    Returns:
      A function of one device's state and rows; the rows have to divide the batch, so that queues
      take their keys. The forward passes run once, the backward passes once for each part.
    """

    def norms(state: PretrainState, batch: Mapping[str, Array]) -> Norms:
        key = state.step_key
        inputs = draw_inputs(plan, key, batch["image"], batch["index"])
        variables = {
            "params": {**state.momentum_params, **state.frozen_params},
            "batch_stats": state.momentum_batch_stats,
        }
        keys, _, _ = jax.lax.stop_gradient(encode_keys(model, variables, inputs["view_k"]))
        added = add_keys(plan, key, state.queues, keys)
        after = {name: queue.keys for name, queue in added.items()}

        def parts(encoder: Any) -> dict[str, Array]:
            _, (_, metrics) = online_losses(
                model,
                {**state.params, "encoder": encoder},
                state,
                inputs,
                keys,
                after,
                momentum=variables,
                **loss_options(plan),
            )
            return split_loss(metrics, plan.contrast, plan.mask.weight if plan.mask else 0.0)

        found, pull = jax.vjp(parts, state.params["encoder"])
        zeros = jax.tree.map(jnp.zeros_like, found)
        return {
            f"gradient/{name}": optax.global_norm(pull({**zeros, name: jnp.ones_like(value)})[0])
            for name, value in found.items()
        }

    return norms


def gradient_gauge(
    plan: PretrainPlan, model: RCMSTR
) -> Callable[[PretrainState, Mapping[str, Array]], dict[str, float]]:
    """`term_gradients` for the log: of this host's first device, at most one part of its batch.

    The state is replicated, the batch sharded. Nothing is compiled before the first use.
    """
    compiled = jax.jit(term_gradients(plan, model), compiler_options=QUICKLY)

    def gauge(state: PretrainState, batch: Mapping[str, Array]) -> dict[str, float]:
        rows = parallel.unreplicate(dict(batch))
        count = len(rows["image"]) // plan.loop.accumulation
        found = compiled(
            parallel.unreplicate(state), {name: value[:count] for name, value in rows.items()}
        )
        return {name: float(value) for name, value in found.items()}

    return gauge
