"""One step of pretraining, written for a single device of the axis `AXIS`.

Order of a step (method sections 1 to 6): views, momentum update, keys, then three decoupled forward
passes of the online branch (plain, rearranged, masked), the objective, the optimiser, the queues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from rcmstr_jax.models.rcmstr import MOMENTUM_PARTS, RCMSTR
from rcmstr_jax.runtime.parallel import AXIS, gather_rows, mean_over_devices, shuffle_rows
from rcmstr_jax.ssl.momentum import ema_update, momentum_schedule
from rcmstr_jax.ssl.objective import contrastive_objective, contrastive_terms, term_queue
from rcmstr_jax.ssl.queue import enqueue, queue_size
from rcmstr_jax.ssl.rearrange import align_frames, rearrange_images
from rcmstr_jax.ssl.reconstruction import patch_targets, reconstruction_loss
from rcmstr_jax.training.build import (
    contrast_options,
    image_size,
    keys_per_image,
    mask_grid,
    patch_size,
)
from rcmstr_jax.training.state import PretrainState, Variables, create_state, select_parts
from rcmstr_jax.training.step_inputs import SHUFFLE, draw_inputs

Tree = TypeVar("Tree")
Step = Callable[[PretrainState, dict[str, Array]], tuple[PretrainState, dict[str, Array]]]


def queue_sizes(config: ConfigDict) -> dict[str, int]:
    """Entries of every queue the config needs, rounded to whole global steps.

    Raises:
      ValueError: if a queue is smaller than one step's keys.
    """
    per_image = keys_per_image(config)
    return {
        name: queue_size(config.contrast.queue_size, config.batch_size * per_image[name])
        for name in contrast_options(config).queues
    }


def fresh_state(
    config: ConfigDict, model: RCMSTR, optimizer: optax.GradientTransformation
) -> PretrainState:
    """The state that a run of this config begins with.

    Args:
      config: a pretraining config; its seed decides the weights.
      model: as the config describes it.
      optimizer: of the online parameters.

    Raises:
      ValueError: as `queue_sizes`.
    """
    return create_state(
        model,
        optimizer,
        jax.random.key(config.seed),
        image_size=image_size(config),
        mask_grid=mask_grid(config) if config.mim.enabled else None,
        queue_sizes=queue_sizes(config),
        predict_dim=config.model.predict_dim,
    )


def key_gauges(keys: dict[str, Array], axis_name: str | None = None) -> dict[str, Array]:
    """Spread of the normalised keys per hierarchy: 0 if all are equal, 1 if over the sphere.

    It is that of the keys of all devices, not the mean of the devices' own.
    """
    gauges = {}
    for name, k in keys.items():
        centre = mean_over_devices(k.reshape(-1, k.shape[-1]).mean(0), axis_name)
        gauges[f"key_variance/{name}"] = 1.0 - jnp.sum(jnp.square(centre))
    return gauges


def encode_keys(
    config: ConfigDict,
    model: RCMSTR,
    variables: Variables,
    view_k: Float[Array, "batch height width 3"],
    key: PRNGKeyArray,
    axis_name: str | None,
) -> tuple[dict[str, Float[Array, "batch count dim"]], Variables]:
    """Keys of this device's images and the momentum branch's new running statistics."""
    restore: Callable[[Array], Array] = lambda rows: rows  # noqa: E731
    if config.key_norm == "shuffle":
        view_k, restore = shuffle_rows(view_k, jax.random.fold_in(key, SHUFFLE), axis_name)

    def encode(rows: Array) -> tuple[dict[str, Array], Variables]:
        keys, updated = model.apply(variables, rows, train=True, mutable=["batch_stats"])
        return keys, updated.get("batch_stats", {})

    if config.accumulation == 1:
        keys, stats = encode(view_k)
    else:
        keys, stats = jax.lax.map(encode, split_rows(view_k, config.accumulation))
        keys = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), keys)
        stats = jax.tree.map(lambda x: x.mean(0), stats)
    return jax.tree.map(restore, keys), stats


def split_rows(tree: Tree, parts: int) -> Tree:
    """`(rows, ...) -> (parts, rows / parts, ...)` for every leaf."""
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), tree)


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


def online_losses(
    config: ConfigDict,
    model: RCMSTR,
    params: Variables,
    state: PretrainState,
    inputs: dict[str, Array],
    keys: dict[str, Array],
    queues_after: dict[str, Array],
) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
    """The objective of one device and what else the forward passes found.

    Returns:
      Total loss, and (new running statistics, metrics).
    """
    options = contrast_options(config)
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
    if config.mim.enabled:
        target_images, _ = run("rectify", inputs["view_q"])
        # The masked pass sees other statistics: what it would leave behind is dropped, unless the
        # masked image is the query view itself.
        (prediction, frames), masked_stats = run(
            "reconstruct", target_images, inputs["mask"], train=True
        )
        masked = (prediction, target_images)
    if config.mim.enabled and config.mim.coupled:
        stats = masked_stats
        plain, _ = run("project_frames", frames)
    else:
        plain, stats = run("project", inputs["view_q"], train=True)
    queries = {name: [q] for name, q in predict(plain).items()}
    if config.rearrange.enabled:
        blocks = config.rearrange.blocks
        shuffled = rearrange_images(inputs["view_q"], inputs["permutation"], blocks=blocks)
        frames_r, stats = run("project", shuffled, train=True)
        aligned = align_frames(frames_r, inputs["permutation"], blocks=blocks)
        for name, q in predict(aligned).items():
            queries[name].append(q)
    terms = contrastive_terms(
        {name: jnp.stack(q) for name, q in queries.items()},
        keys,
        {name: q.keys for name, q in state.queues.items()},
        queues_after,
        options,
    )
    sizes = {name: queues_after[term_queue(name)].shape[0] for name in terms}
    total, metrics = contrastive_objective(terms, sizes, options)
    for name, term in terms.items():
        if name in options.hierarchies:
            metrics[f"accuracy/{name}"] = term.correct.mean(dtype=total.dtype)
        if options.relation:
            metrics[f"relation_entropy/{name}"] = term.key_entropy.mean() / jnp.log(sizes[name])
    metrics["loss/contrast"] = total
    if masked is not None:
        prediction, target_images = masked
        target = patch_targets(
            target_images, patch_size(config), normalize=config.mim.normalize_targets
        )
        loss_sum, count = reconstruction_loss(prediction, target, inputs["mask"])
        metrics["loss/mim"] = loss_sum / count
        total += config.mim.weight * metrics["loss/mim"]
    metrics["loss"] = total
    return total, (stats, metrics)


def make_pretrain_step(
    config: ConfigDict,
    model: RCMSTR,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    axis_name: str | None = AXIS,
) -> Step:
    """Builds `step(state, batch) -> (state, metrics)` for one device of the axis.

    Args:
      config: a resolved pretraining config.
      model: built with `axis_name` where statistics are synchronised.
      optimizer: its updates are added to the parameters.
      schedule: learning rate by step, for the log.
      axis_name: device axis; None runs on a single device without collectives.

    Returns:
      The step. `batch` holds `image` (uint8 or float) and `index` (int, global). A step whose loss
      or gradient is not finite changes nothing but its own counters and `step`.
    """

    def step(state: PretrainState, batch: dict[str, Array]) -> tuple[PretrainState, Any]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        inputs = draw_inputs(config, key, batch["image"], batch["index"])

        momentum = momentum_schedule(
            state.step, config.total_steps, config.momentum.value, config.momentum.final
        )
        online = select_parts(state.params, MOMENTUM_PARTS)
        momentum_params = ema_update(state.momentum_params, online, momentum)
        keys, momentum_stats = encode_keys(
            config,
            model,
            {
                "params": {**momentum_params, **state.frozen_params},
                "batch_stats": state.momentum_batch_stats,
            },
            inputs["view_k"],
            key,
            axis_name,
        )
        keys = jax.lax.stop_gradient(keys)
        new_queues = {
            name: enqueue(
                queue, gather_rows(keys[name].reshape(-1, keys[name].shape[-1]), axis_name)
            )
            for name, queue in state.queues.items()
        }

        def part_gradients(part: tuple[dict[str, Array], dict[str, Array]]) -> Any:
            part_inputs, part_keys = part

            def loss_fn(params: Variables) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
                return online_losses(
                    config,
                    model,
                    params,
                    state,
                    part_inputs,
                    part_keys,
                    {name: queue.keys for name, queue in new_queues.items()},
                )

            return jax.grad(loss_fn, has_aux=True)(state.params)

        gradients, (stats, metrics) = mean_over_parts(
            part_gradients, (inputs, keys), config.accumulation
        )
        metrics.update(key_gauges(keys, axis_name))
        gradients, metrics, stats, momentum_stats = mean_over_devices(
            (gradients, metrics, stats, momentum_stats), axis_name
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        grad_norm = optax.global_norm(gradients)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        proposed = dataclasses.replace(
            state,
            params=optax.apply_updates(state.params, updates),
            momentum_params=momentum_params,
            batch_stats=stats,
            momentum_batch_stats={**state.momentum_batch_stats, **momentum_stats},
            opt_state=opt_state,
            queues=new_queues,
        )
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
        kept = dataclasses.replace(
            kept,
            step=state.step + 1,
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        metrics.update(
            grad_norm=grad_norm,
            update_norm=optax.global_norm(updates),
            learning_rate=schedule(state.step),
            momentum=momentum,
            skipped=kept.skipped,
            skipped_in_row=kept.skipped_in_row,
        )
        return kept, metrics

    return step
