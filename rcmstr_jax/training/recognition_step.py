"""Training a recogniser on labels: a decoder on fixed frames, or encoder and decoder together.

METHOD.md 8. The same step serves both protocols:

* frozen: the inputs are frames that the encoder produced once, or images that it encodes in
  inference mode with its own running statistics; only the decoder has parameters in the state;
* fine-tuning: the inputs are images, the encoder runs in training mode inside the step, and its
  parameters and running statistics are part of the state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rcmstr_jax.augment.views import make_view
from rcmstr_jax.runtime.arithmetic import Asked, Precision, products
from rcmstr_jax.runtime.parallel import AXIS, mean_over_devices
from rcmstr_jax.training.layer_decay import scale_by_layer
from rcmstr_jax.training.optimizer import decayed
from rcmstr_jax.training.plan import LabelPlan
from rcmstr_jax.training.pretrain_step import mean_over_parts
from rcmstr_jax.training.state import TrainingState, keep_finite
from rcmstr_jax.training.step_inputs import images_to_float

Tree = Any
LossFn = Callable[[Tree, Any, Mapping[str, Any]], tuple[Any, Any]]
"""(decoder params, frames or maps, batch) -> (sum of the losses, what to divide it by)."""
EncodeFn = Callable[..., tuple[Any, Tree]]
"""(encoder params, statistics, float images (B, 32, W, 3), constants) -> (frames, statistics).

With drop path it is also given `branches=`."""

# Purposes that are folded into the base key, so that no two draws share one.
INIT_PURPOSE, VIEW_PURPOSE, DROP_PURPOSE = 0, 1, 2


@flax.struct.dataclass
class RecognitionState(TrainingState):
    """All that a continued training run needs.

    Attributes:
      params: `{"decoder": ...}` and, when it is trained too, `{"encoder": ...}`.
      batch_stats: running statistics of the encoder; empty when it is frozen.
      averaged: moving average of `params` and `batch_stats` under these names; empty without.
      best: `weights` of the best validation, its `score` (word accuracy and 1-NED in %), its
        `step`, and how many `misses` came after it; empty without validation.
    """

    averaged: Tree
    best: Tree

    def weights(self) -> dict[str, Tree]:
        """`params` and `batch_stats` to read with: the average where there is one."""
        return self.averaged or {"params": self.params, "batch_stats": self.batch_stats}


def recognition_optimizer(
    total_steps: int, labels: LabelPlan, encoder_params: Tree = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam with a one-cycle schedule and clipping by the global norm (method section 8).

    The rectifier's parameters stay as they are: it is frozen in every protocol.

    Args:
      total_steps: length of the cycle.
      labels: rates, decay and clipping; without `weight_decay` it is plain Adam.
      encoder_params: `{"encoder": ...}`, whose layers are counted where `layer_decay` is not 1.

    Returns:
      The transformation for params `{"decoder": ..., "encoder": ...}` and the decoder's schedule.
    """
    schedule = optax.cosine_onecycle_schedule(
        max(total_steps, 2), labels.learning_rate, pct_start=labels.warmup_share
    )

    def adam(rate: optax.Schedule) -> optax.GradientTransformation:
        if not labels.weight_decay:
            return optax.adam(rate)
        return optax.adamw(rate, weight_decay=labels.weight_decay, mask=decayed)

    parts: dict[Any, optax.GradientTransformation] = {
        "decoder": adam(schedule),
        "encoder": adam(lambda step: labels.encoder_multiplier * schedule(step)),
        "fixed": optax.set_to_zero(),
    }

    def label(path: Sequence[Any], _: Any) -> str:
        names = [getattr(entry, "key", str(entry)) for entry in path]
        return "fixed" if "rectifier" in names[:2] else names[0]

    chain = [optax.clip_by_global_norm(labels.clip)] if labels.clip else []
    chain.append(optax.partition(parts, partial(jax.tree_util.tree_map_with_path, label)))
    if encoder_params is not None and labels.layer_decay != 1.0:
        chain.append(scale_by_layer(labels.layer_decay, encoder_params["encoder"]))
    return optax.chain(*chain), schedule


def create_state(
    key: Array,
    decoder_params: Tree,
    optimizer: optax.GradientTransformation,
    *,
    encoder_params: Tree = None,
    batch_stats: Tree = None,
    averaged: bool = False,
    validated: bool = False,
) -> RecognitionState:
    """A decoder, beside the given encoder if that is to be trained too.

    Args:
      encoder_params: None when the encoder is frozen.
      batch_stats: the encoder's running statistics, None when it is frozen.
    """
    params = {"decoder": decoder_params}
    if encoder_params is not None:
        params["encoder"] = encoder_params
    weights = {"params": params, "batch_stats": batch_stats or {}}
    best: dict[str, Any] = {}
    if validated:
        best = {
            "weights": jax.tree.map(jnp.copy, weights),
            "score": jnp.full((2,), -1.0, jnp.float32),
            "step": jnp.zeros((), jnp.int32),
            "misses": jnp.zeros((), jnp.int32),
        }
    return RecognitionState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=weights["batch_stats"],
        opt_state=optimizer.init(params),
        key_data=jax.random.key_data(key),
        averaged=jax.tree.map(jnp.copy, weights) if averaged else {},
        best=best,
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


def make_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    *,
    encode: EncodeFn | None = None,
    view_ops: int = 0,
    branches: Callable[[Array, Array], Array] | None = None,
    average: float = 0.0,
    accumulation: int = 1,
    precision: Precision | None = None,
    axis_name: str | None = AXIS,
) -> Callable[..., tuple[RecognitionState, dict[str, Any]]]:
    """One optimiser step `(state, batch, constants) -> (state, metrics)` for one device.

    Args:
      encode: images to frames; None for inputs that are frames already.
      view_ops: with `encode`: light augmentation of the images with at most so many operations
        (METHOD.md 1), keyed by their place; 0 for none.
      branches: with `encode`: `(key, places)` -> what the encoder's branches are multiplied by.
      average: share of the old value in each step of the moving average of weights and running
        statistics, less at the beginning; used where the state has an average.
      accumulation: parts in which a device goes through its rows.
      precision: of products, by class; the platform's own by default.
      axis_name: device axis; None runs on a single device without collectives.

    Returns:
      The step. `batch["rows"]` are places in `constants["memory"]`, which holds `inputs` and what
      `loss` needs, or `batch` holds these itself; `batch["index"]` is the place of each word in the
      run. `inputs` are frames (B, T, D), or uint8 images (B, 32, W, 3) with `encode`. A step whose
      loss or gradient is not finite changes nothing but its own counters and `step`.
    """

    def step(
        state: RecognitionState, batch: Mapping[str, Any], constants: Mapping[str, Any]
    ) -> tuple[RecognitionState, dict[str, Any]]:
        asked = (precision or Precision()).resolved()
        with products(asked["network"]):
            return learn(state, batch, constants, asked["warps"])

    def learn(
        state: RecognitionState,
        batch: Mapping[str, Any],
        constants: Mapping[str, Any],
        warps: Asked | None,
    ) -> tuple[RecognitionState, dict[str, Any]]:
        if "rows" in batch:
            memory = jax.tree.map(lambda column: column[batch["rows"]], constants["memory"])
            batch = {**memory, "index": batch["index"]}

        def part_gradients(part: Mapping[str, Any]) -> Any:
            inputs, options = part["inputs"], {}
            if branches is not None:
                drop_key = jax.random.fold_in(state.step_key, DROP_PURPOSE)
                options["branches"] = branches(drop_key, part["index"])
            if encode is not None:
                inputs = images_to_float(inputs)
                if view_ops:
                    key = jax.random.fold_in(state.step_key, VIEW_PURPOSE)
                    with products(warps):
                        inputs = make_view(key, inputs, indices=part["index"], max_ops=view_ops)

            def objective(params: Tree) -> tuple[Float[Array, ""], Any]:
                frames, statistics = inputs, state.batch_stats
                if encode is not None:
                    encoder = params.get("encoder")
                    frames, statistics = encode(
                        encoder, state.batch_stats, inputs, constants, **options
                    )
                frames = jax.tree.map(lambda x: x.astype(jnp.float32), frames)
                total, count = loss(params["decoder"], frames, part)
                return total, (count, statistics)

            found, gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
            return gradients, found

        # Sums over parts and devices, each of which may hold another number of tokens.
        found = mean_over_parts(part_gradients, dict(batch), accumulation)
        gradients, (total, (count, statistics)) = mean_over_devices(found, axis_name)
        count = jnp.maximum(count, 1e-9)
        gradients = jax.tree.map(lambda g: g / count.astype(g.dtype), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params, averaged = optax.apply_updates(state.params, updates), state.averaged
        if averaged:
            # At the beginning the average is that of few steps: it must not remember the start.
            done = state.step.astype(jnp.float32)
            kept = jnp.minimum(average, (1.0 + done) / (10.0 + done))
            now = {"params": params, "batch_stats": statistics}
            averaged = jax.tree.map(lambda a, b: kept * a + (1 - kept) * b, averaged, now)
        proposed = dataclasses.replace(
            state,
            params=params,
            batch_stats=statistics,
            opt_state=opt_state,
            averaged=averaged,
        )
        metrics = {
            "loss": total / count,
            "grad_norm": optax.global_norm(gradients),
            "learning_rate": schedule(state.step),
        }
        return keep_finite(proposed, state, metrics)

    return step
