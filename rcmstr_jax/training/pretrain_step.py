"""One step of pretraining, written for a single device of the axis `AXIS`.

Order of a step (METHOD.md 1 to 6): views, momentum update, keys, then three decoupled forward
passes of the online branch (plain, rearranged, masked), the objective, the optimiser, the queues.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from rcmstr_jax.models.rcmstr import MOMENTUM_PARTS, RCMSTR
from rcmstr_jax.runtime.arithmetic import Asked, products, with_products
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
from rcmstr_jax.ssl.reconstruction import reconstruction_loss
from rcmstr_jax.target import target_platform
from rcmstr_jax.training.masked_pass import masked_targets
from rcmstr_jax.training.plan import MaskPlan, PretrainPlan
from rcmstr_jax.training.state import PretrainState, Variables, keep_finite, select_parts
from rcmstr_jax.training.step_inputs import FRAME_KEYS, MASKED, SHUFFLE, draw_inputs

Tree = TypeVar("Tree")
Keys = dict[str, Float[Array, "batch _ dim"]]
Metrics = dict[str, Array]
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
        "products_of_loss": plan.precision.resolved()["loss"],
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
    products_of_loss: Asked | None = None,
    blocks: int | None = None,
    rectify_first: bool = False,
    mask: MaskPlan | None = None,
    momentum: Variables | None = None,
) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
    """The objective of one device and what else the forward passes found.

    Without `blocks` nothing is rearranged, without `mask` nothing is masked. With `rectify_first`
    it is rectified images that exchange blocks. Features as targets are those that the `momentum`
    branch finds in the whole query view; neither gradients nor statistics come of it.

    Args:
      state: what else the passes need; its own `params` are not used.
      inputs: `view_q`; with `blocks` `permutation`; with `mask` `mask`; with drop path
        `branches`, of the three passes.
      momentum: variables of the momentum branch, where its features are predicted.
      products_of_loss: see `Precision.resolved`.

    Returns:
      Total loss, and (new running statistics, metrics).
    """
    stats: Variables = state.batch_stats
    weights = {**params, **state.frozen_params}
    run = functools.partial(_run, model, weights)
    masked: tuple[Array, Metrics] | None = None
    if mask is not None:
        masked, frames, masked_stats = _masked(model, weights, stats, inputs, mask, momentum)
    images: list[Array] = [inputs["view_q"]]
    if blocks is not None:
        whole = run(stats, "rectify", images[0])[0] if rectify_first else images[0]
        images.append(rearrange_images(whole, inputs["permutation"], blocks=blocks))
    passes = [(x, dropped(inputs, place)) for place, x in enumerate(images)]
    # The masked pass sees other statistics: what it would leave behind is dropped, unless the
    # masked image is the query view itself.
    seen: list[Array] = []
    if mask is not None and mask.coupled:
        stats = masked_stats
        seen.append(run(stats, "project_frames", frames)[0])
    others, stats = _project(run, stats, passes[len(seen) :], rectify_first and blocks is not None)
    seen += others
    if blocks is not None:
        seen[1] = align_frames(seen[1], inputs["permutation"], blocks=blocks)
    queries = [run(stats, "predict", x)[0] for x in seen]
    find_terms = functools.partial(contrastive_terms, options=contrast)
    terms = with_products(find_terms, products_of_loss)(
        {name: jnp.stack([q[name] for q in queries]) for name in queries[0]},
        keys,
        {name: q.keys for name, q in state.queues.items()},
        queues_after,
    )
    sizes = {name: queues_after[term_queue(name)].shape[0] for name in terms}
    total, metrics = contrastive_objective(terms, sizes, contrast)
    for name, term in terms.items():
        if name in contrast.hierarchies:
            metrics[f"accuracy/{name}"] = term.correct.mean(dtype=total.dtype)
        if contrast.relation:
            metrics[f"relation_entropy/{name}"] = term.key_entropy.mean() / jnp.log(sizes[name])
    metrics["loss/contrast"] = total
    if masked is not None:
        metrics |= masked[1]
        total += masked[0]
    metrics["loss"] = total
    return total, (stats, metrics)


def _run(
    model: RCMSTR, weights: Variables, stats: Variables, method: str, *args: Any, **kwargs: Any
) -> tuple[Any, Variables]:
    """What a method gives, and the running statistics after it."""
    variables = {"params": weights, "batch_stats": stats}
    out, updated = model.apply(variables, *args, method=method, mutable=["batch_stats"], **kwargs)
    return out, {**stats, **updated.get("batch_stats", {})}


def dropped(inputs: dict[str, Array], place: int) -> dict[str, Array]:
    """Options of a forward pass, by its place in `inputs["branches"]`, where some are dropped."""
    found = inputs.get("branches")
    return {} if found is None else {"branches": found[:, place]}


def _project(
    run: Callable[..., Any],
    stats: Variables,
    passes: list[tuple[Array, dict[str, Array]]],
    rectify_first: bool,
) -> tuple[list[Array], Variables]:
    """Frames of images, each with their options; the last are rectified if `rectify_first`.

    Two passes are one piece of program on accelerators: a loop of two turns or, where there are no
    statistics by which images meet, one pass of twice as many.
    """
    if len(passes) == 2 and not rectify_first and target_platform() != "cpu":
        if not stats:
            images, options = jax.tree.map(lambda *x: jnp.concatenate(x), *passes)
            both, _ = run(stats, "project", images, train=True, **options)
            return list(jnp.split(both, 2)), stats

        def turn(stats: Variables, one: Any) -> tuple[Variables, Array]:
            return run(stats, "project", one[0], train=True, **one[1])[::-1]

        stats, frames = jax.lax.scan(turn, stats, jax.tree.map(lambda *x: jnp.stack(x), *passes))
        return list(frames), stats
    found = []
    for place, (x, options) in enumerate(passes):
        rectified = rectify_first and place == len(passes) - 1
        frames, stats = run(stats, "project", x, train=True, rectified=rectified, **options)
        found.append(frames)
    return found, stats


def _masked(
    model: RCMSTR,
    weights: Variables,
    stats: Variables,
    inputs: dict[str, Array],
    mask: MaskPlan,
    momentum: Variables | None,
) -> tuple[tuple[Array, Metrics], Array, Variables]:
    """The masked pass: its weighted loss and metrics, the encoder's frames, and the statistics."""
    target_images, _ = _run(model, weights, stats, "rectify", inputs["view_q"])
    arguments, options = (target_images, inputs["mask"]), dropped(inputs, MASKED)
    (prediction, frames), stats = _run(
        model, weights, stats, "reconstruct", *arguments, train=True, **options
    )
    target = masked_targets(mask, model, target_images, momentum)
    loss_sum, count = reconstruction_loss(prediction, target, inputs["mask"])
    loss = loss_sum / count
    return (mask.weight * loss, {"loss/mim": loss}), frames, stats


def online_gradients(
    plan: PretrainPlan,
    model: RCMSTR,
    state: PretrainState,
    inputs: dict[str, Array],
    keys: Keys,
    queues_after: dict[str, Array],
    momentum: Variables | None = None,
    *,
    options: Mapping[str, Any] | None = None,
) -> tuple[Variables, tuple[Variables, Metrics]]:
    """The gradient of `online_losses` for all parameters, and what else the passes found.

    A masked pass of its own is differentiated first: what it keeps for its backward pass is
    dropped before the contrastive passes begin.

    Args:
      options: of `online_losses`, by default those of the plan.
    """
    options, masked = dict(options or loss_options(plan)), None
    params: Variables = state.params
    if plan.mask is not None and not plan.mask.coupled:
        mask, options["mask"] = plan.mask, None

        def masked_loss(params: Variables) -> tuple[Array, Metrics]:
            weights = {**params, **state.frozen_params}
            return _masked(model, weights, state.batch_stats, inputs, mask, momentum)[0]

        value_and_gradient = jax.value_and_grad(masked_loss, has_aux=True)
        masked = value_and_gradient(params)
        # The order is said: the contrastive passes wait for the masked one's gradient.
        params, masked = jax.lax.optimization_barrier((params, masked))

    def loss(params: Variables) -> tuple[Array, tuple[Variables, Metrics]]:
        arguments = (params, state, inputs, keys, queues_after)
        return online_losses(model, *arguments, momentum=momentum, **options)

    gradients, (stats, metrics) = jax.grad(loss, has_aux=True)(params)
    if masked is not None:
        (weighted, found), of_masked = masked
        gradients = jax.tree.map(jnp.add, gradients, of_masked)
        metrics |= found | {"loss": metrics["loss"] + weighted}
    return gradients, (stats, metrics)


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
        asked, options = plan.precision.resolved(), loss_options(plan)
        with products(asked["warps"]):
            inputs = draw_inputs(plan, state.step_key, batch["image"], batch["index"])
        with products(asked["network"]):
            return learn(state, inputs, options)

    def learn(
        state: PretrainState, inputs: dict[str, Array], options: dict[str, Any]
    ) -> tuple[PretrainState, Any]:
        key = state.step_key

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
            return online_gradients(
                plan, model, state, *part, queues_after, variables, options=options
            )

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
