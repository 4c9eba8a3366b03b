"""One step of pretraining, written for a single device of the axis `AXIS`.

Order of a step (METHOD.md 1 to 6): views, momentum update, keys, then three decoupled forward
passes of the online branch (plain, rearranged, masked), the objective, the optimiser, the queues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from rcmstr_jax.models.rcmstr import MOMENTUM_PARTS, RCMSTR
from rcmstr_jax.runtime.parallel import AXIS, deal_rows, gather_rows, mean_over_devices
from rcmstr_jax.ssl.momentum import ema_update, momentum_schedule
from rcmstr_jax.ssl.objective import (
    ContrastOptions,
    contrastive_objective,
    contrastive_terms,
    term_queue,
)
from rcmstr_jax.ssl.queue import KeyQueue, enqueue, sample_keys
from rcmstr_jax.ssl.rearrange import align_frames, rearrange_images
from rcmstr_jax.ssl.reconstruction import patch_targets, reconstruction_loss
from rcmstr_jax.training.plan import MaskPlan, PretrainPlan
from rcmstr_jax.training.state import (
    PretrainState,
    Variables,
    keep_finite,
    select_parts,
)
from rcmstr_jax.training.step_inputs import FRAME_KEYS, SHUFFLE, draw_inputs

Tree = TypeVar("Tree")
Keys = dict[str, Float[Array, "batch _ dim"]]
AllKeys = dict[str, Float[Array, "all_images _ dim"]]
Step = Callable[[PretrainState, dict[str, Array]], tuple[PretrainState, dict[str, Array]]]


def encode_keys(
    model: nn.Module,
    variables: Variables,
    view_k: Float[Array, "batch height width 3"],
    *,
    shuffle: PRNGKeyArray | None = None,
    parts: int = 1,
    axis_name: str | None = None,
) -> tuple[Keys, AllKeys, Variables]:
    """The momentum branch's outputs for this device's images.

      Args:
        model: the network, or another one that gives keys.
    variables: of the momentum branch.
    view_k: this device's images.
        shuffle: deals the images of all devices anew before they are encoded, so that batch
          statistics do not give a key away; None encodes them where they are.

      Returns:
        Keys of this device's images; those of all devices, in global order; and the branch's
        new running statistics.
    """

    def encode(rows: Array) -> tuple[Keys, Variables]:
        keys, updated = model.apply(variables, rows, train=True, mutable=["batch_stats"])
        return keys, updated.get("batch_stats", {})

    order = None
    if shuffle is not None:
        view_k, order = deal_rows(view_k, shuffle, axis_name)
    if parts == 1:
        keys, stats = encode(view_k)
    else:
        keys, stats = jax.lax.map(encode, split_rows(view_k, parts))
        keys = jax.tree.map(lambda x: einops.rearrange(x, "p b n d -> (p b) n d"), keys)
        stats = jax.tree.map(lambda x: x.mean(0), stats)
    found = {name: gather_rows(k, axis_name, order) for name, k in keys.items()}
    own = {name: mine for name, (mine, _) in found.items()}
    return own, {name: everybody for name, (_, everybody) in found.items()}, stats


def add_keys(
    plan: PretrainPlan, key: PRNGKeyArray, queues: dict[str, KeyQueue], all_keys: AllKeys
) -> dict[str, KeyQueue]:
    """The queues with a step's keys; of an image's frames a sample, where the plan says so.

    Args:
      plan: of the run.
      key: of the step.
      queues: as they were.
      all_keys: of all devices, in global order: every device draws the same sample.
    """
    added = dict(all_keys)
    if plan.frame_keys and "frame" in queues:
        draw = jax.random.fold_in(key, FRAME_KEYS)
        added["frame"] = sample_keys(draw, all_keys["frame"], plan.frame_keys)
    return {
        name: enqueue(queue, einops.rearrange(added[name], "b n d -> (b n) d"))
        for name, queue in queues.items()
    }


def split_rows(tree: Tree, parts: int) -> Tree:
    """`(rows, ...) -> (parts, rows / parts, ...)` for every leaf."""
    return jax.tree.map(lambda x: einops.rearrange(x, "(p b) ... -> p b ...", p=parts), tree)


def mean_over_parts(function: Callable[[Any], Tree], rows: Any, parts: int) -> Tree:
    """Averages `function` of equal parts of `rows`, computed one after the other.

    Only one part's activations are held at a time: this is gradient accumulation.
    """
    if parts == 1:
        return function(rows)
    split = split_rows(rows, parts)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Tree, part: Any) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = jax.lax.scan(add, zeros, split)
    return jax.tree.map(lambda x: x / parts, total)


def loss_options(plan: PretrainPlan) -> dict[str, Any]:
    """What a plan says to `online_losses`."""
    return {
        "contrast": plan.contrast,
        "blocks": plan.rearrange.blocks if plan.rearrange else None,
        "rectify_first": plan.model.rectify_first,
        "mask": plan.mask,
    }


def online_losses(
    model: RCMSTR,
    params: Variables,
    state: PretrainState,
    inputs: dict[str, Array],
    keys: Keys,
    queues_after: dict[str, Array],
    *,
    contrast: ContrastOptions,
    blocks: int | None = None,
    rectify_first: bool = False,
    mask: MaskPlan | None = None,
) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
    """The objective of one device and what else the forward passes found.

    Without `blocks` nothing is rearranged, without `mask` nothing is masked. With `rectify_first`
    it is rectified images that exchange blocks.

    Args:
      state: what else the passes need; its own `params` are not used.
      inputs: `view_q`; with `blocks` `permutation`; with `mask` `mask`.

    Returns:
      Total loss, and (new running statistics, metrics).
    """
    stats: Variables = state.batch_stats
    weights = {**params, **state.frozen_params}

    def run(method: str, *args: Any, **kwargs: Any) -> tuple[Any, Variables]:
        out, updated = model.apply(
            {"params": weights, "batch_stats": stats},
            *args,
            method=method,
            mutable=["batch_stats"],
            **kwargs,
        )
        return out, {**stats, **updated.get("batch_stats", {})}

    def predict(frames: Array) -> dict[str, Array]:
        return run("predict", frames)[0]

    masked: tuple[Array, Array] | None = None
    if mask is not None:
        target_images, _ = run("rectify", inputs["view_q"])
        # The masked pass sees other statistics: what it would leave behind is dropped, unless the
        # masked image is the query view itself.
        (prediction, frames), masked_stats = run(
            "reconstruct", target_images, inputs["mask"], train=True
        )
        masked = (prediction, target_images)
    if mask is not None and mask.coupled:
        stats = masked_stats
        plain, _ = run("project_frames", frames)
    else:
        plain, stats = run("project", inputs["view_q"], train=True)
    queries = {name: [q] for name, q in predict(plain).items()}
    if blocks is not None:
        whole = run("rectify", inputs["view_q"])[0] if rectify_first else inputs["view_q"]
        shuffled = rearrange_images(whole, inputs["permutation"], blocks=blocks)
        frames_r, stats = run("project", shuffled, train=True, rectified=rectify_first)
        aligned = align_frames(frames_r, inputs["permutation"], blocks=blocks)
        for name, q in predict(aligned).items():
            queries[name].append(q)
    terms = contrastive_terms(
        {name: jnp.stack(q) for name, q in queries.items()},
        keys,
        {name: q.keys for name, q in state.queues.items()},
        queues_after,
        contrast,
    )
    sizes = {name: queues_after[term_queue(name)].shape[0] for name in terms}
    total, metrics = contrastive_objective(terms, sizes, contrast)
    for name, term in terms.items():
        if name in contrast.hierarchies:
            metrics[f"accuracy/{name}"] = term.correct.mean(dtype=total.dtype)
        if contrast.relation:
            metrics[f"relation_entropy/{name}"] = term.key_entropy.mean() / jnp.log(sizes[name])
    metrics["loss/contrast"] = total
    if mask is not None and masked is not None:
        prediction, target_images = masked
        target = patch_targets(target_images, mask.patch, normalize=mask.normalize_targets)
        loss_sum, count = reconstruction_loss(prediction, target, inputs["mask"])
        metrics["loss/mim"] = loss_sum / count
        total += mask.weight * metrics["loss/mim"]
    metrics["loss"] = total
    return total, (stats, metrics)


def make_pretrain_step(
    plan: PretrainPlan,
    model: RCMSTR,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    axis_name: str | None = AXIS,
) -> Step:
    """Builds `step(state, batch) -> (state, metrics)` for one device of the axis.

    Args:
      model: built with `axis_name` where statistics are synchronised.
      schedule: learning rate by step, for the log.
      axis_name: device axis; None runs on a single device without collectives.

    Returns:
      The step. `batch` holds `image` (uint8 or float) and `index` (int, global). A step whose loss
      or gradient is not finite changes nothing but its own counters and `step`.
    """
    parts = plan.loop.accumulation

    def step(state: PretrainState, batch: dict[str, Array]) -> tuple[PretrainState, Any]:
        key = state.step_key
        inputs = draw_inputs(plan, key, batch["image"], batch["index"])

        # The momentum branch, then the queues with its keys.
        momentum = momentum_schedule(
            state.step,
            plan.loop.total_steps,
            plan.momentum.value,
            plan.momentum.final,
            plan.momentum.exponent,
        )
        online = select_parts(state.params, MOMENTUM_PARTS)
        momentum_params = ema_update(state.momentum_params, online, momentum)
        variables = {
            "params": {**momentum_params, **state.frozen_params},
            "batch_stats": state.momentum_batch_stats,
        }
        shuffle = jax.random.fold_in(key, SHUFFLE) if plan.key_norm == "shuffle" else None
        keys, all_keys, momentum_stats = jax.lax.stop_gradient(
            encode_keys(
                model,
                variables,
                inputs["view_k"],
                shuffle=shuffle,
                parts=parts * plan.key_groups,
                axis_name=axis_name,
            )
        )
        new_queues = add_keys(plan, key, state.queues, all_keys)
        queues_after = {name: queue.keys for name, queue in new_queues.items()}

        # The online branch: the objective and its gradient.
        def part_gradients(part: tuple[dict[str, Array], Keys]) -> Any:
            part_inputs, part_keys = part

            def loss_fn(params: Variables) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
                return online_losses(
                    model,
                    params,
                    state,
                    part_inputs,
                    part_keys,
                    queues_after,
                    **loss_options(plan),
                )

            return jax.grad(loss_fn, has_aux=True)(state.params)

        gradients, (stats, metrics) = mean_over_parts(part_gradients, (inputs, keys), parts)
        for name, k in all_keys.items():  # 0 if all are equal, 1 if spread over the sphere
            metrics[f"key_variance/{name}"] = 1.0 - jnp.sum(jnp.square(k.mean((0, 1))))
        gradients, metrics, stats, momentum_stats = mean_over_devices(
            (gradients, metrics, stats, momentum_stats), axis_name
        )

        # The update.
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        proposed = dataclasses.replace(
            state,
            params=optax.apply_updates(state.params, updates),
            momentum_params=momentum_params,
            batch_stats=stats,
            momentum_batch_stats={**state.momentum_batch_stats, **momentum_stats},
            opt_state=opt_state,
            queues=new_queues,
        )
        metrics.update(
            grad_norm=optax.global_norm(gradients),
            update_norm=optax.global_norm(updates),
            learning_rate=schedule(state.step),
            momentum=momentum,
        )
        return keep_finite(proposed, state, metrics)

    return step
