"""Training a recogniser on labels: a decoder on fixed frames, or encoder and decoder together.

Method section 8. The same step serves both protocols:

* frozen: the inputs are frames that the encoder produced once, in inference mode with its own
  running statistics; only the decoder has parameters in the state;
* fine-tuning: the inputs are images, the encoder runs in training mode inside the step, and its
  parameters and running statistics are part of the state.

Several steps run inside one compiled call (`make_chunk`): the dispatch of a small decoder's step
costs as much as the step, and the words stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Int

from rcmstr_jax.augment.views import make_view
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.training.layer_decay import scale_by_layer
from rcmstr_jax.training.optimizer import decayed
from rcmstr_jax.training.step_inputs import images_to_float

Tree = Any
EncodeFn = Callable[[Tree, Tree, Any], tuple[Any, Tree]]
"""(encoder params, statistics, float images (B, 32, W, 3)) -> (frames (B, T, D), statistics)."""

# Purposes that are folded into the base key, so that no two draws share one.
INIT_PURPOSE, VIEW_PURPOSE = 0, 1


class RecognitionState(struct.PyTreeNode):
    """All that a continued training run needs.

    Attributes:
      step: int32 scalar, optimiser steps done.
      params: `{"decoder": ...}` and, when it is trained too, `{"encoder": ...}`.
      batch_stats: running statistics of the encoder; empty when it is frozen.
      opt_state: optimiser state of `params`.
      key: base key, a typed scalar key.
      averaged: moving average of `params` and `batch_stats` under these names; empty without.
    """

    step: Int[Array, ""]
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    key: Array
    averaged: Tree = struct.field(default_factory=dict)

    def weights(self) -> dict[str, Tree]:
        """`params` and `batch_stats` to read with: the average where there is one."""
        return self.averaged or {"params": self.params, "batch_stats": self.batch_stats}


def recognition_optimizer(
    total_steps: int,
    *,
    learning_rate: float = 5e-4,
    clip: float = 5.0,
    warmup_share: float = 0.3,
    encoder_multiplier: float = 1.0,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
    encoder_params: Tree = None,
) -> tuple[optax.GradientTransformation, Callable[[Any], Any]]:
    """Adam with a one-cycle schedule and clipping by the global norm (method section 8).

    The rectifier's parameters stay as they are: it is frozen in every protocol.

    Args:
      total_steps: length of the cycle, in steps.
      learning_rate: peak of the cycle, for the decoder.
      clip: largest norm of the whole gradient; 0 switches clipping off.
      warmup_share: share of the steps in which the rate rises.
      encoder_multiplier: rate of the encoder relative to the decoder's.
      weight_decay: of kernels, apart from the gradient (AdamW); 0 is plain Adam.
      layer_decay: see `layer_decay.scale_by_layer`; 1 treats all layers alike.
      encoder_params: `{"encoder": ...}`, whose layers are counted where `layer_decay` is not 1.

    Returns:
      The transformation for params `{"decoder": ..., "encoder": ...}` and the decoder's schedule.
    """
    schedule = optax.cosine_onecycle_schedule(
        max(total_steps, 2), learning_rate, pct_start=warmup_share
    )

    def adam(rate: optax.Schedule) -> optax.GradientTransformation:
        if not weight_decay:
            return optax.adam(rate)
        return optax.adamw(rate, weight_decay=weight_decay, mask=decayed)

    parts: dict[Any, optax.GradientTransformation] = {
        "decoder": adam(schedule),
        "encoder": adam(lambda step: encoder_multiplier * schedule(step)),
        "fixed": optax.set_to_zero(),
    }

    def label(path: Sequence[Any], _: Any) -> str:
        names = [getattr(entry, "key", str(entry)) for entry in path]
        return "fixed" if "rectifier" in names[:2] else names[0]

    def labels(params: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(label, params)

    chain = [optax.clip_by_global_norm(clip)] if clip else []
    chain.append(optax.partition(parts, labels))
    if encoder_params is not None and layer_decay != 1.0:
        chain.append(scale_by_layer(layer_decay, encoder_params["encoder"]))
    return optax.chain(*chain), schedule


def create_state(
    key: Array,
    head: DecoderHead,
    frames_shape: tuple[int, int],
    optimizer: optax.GradientTransformation,
    *,
    encoder_params: Tree = None,
    batch_stats: Tree = None,
    averaged: bool = False,
    decoder_params: Tree = None,
) -> RecognitionState:
    """A fresh decoder, beside the given encoder if that is to be trained too.

    Args:
      key: base key; purposes are folded into it.
      head: the decoder.
      frames_shape: (T, D) of one word.
      optimizer: from `recognition_optimizer`.
      encoder_params: None when the encoder is frozen.
      batch_stats: the encoder's running statistics, None when it is frozen.
      averaged: whether a moving average of the weights is kept.
      decoder_params: of a decoder that was trained before; None draws a fresh one.
    """
    if decoder_params is None:
        frames = jnp.zeros((2, *frames_shape), jnp.float32)
        decoder_params = head.init(jax.random.fold_in(key, INIT_PURPOSE), frames)
    params = {"decoder": decoder_params}
    if encoder_params is not None:
        # Copies: the training loop donates its state, and the caller's arrays must stay.
        params["encoder"] = jax.tree.map(jnp.copy, encoder_params)
    batch_stats = {} if batch_stats is None else jax.tree.map(jnp.copy, batch_stats)
    weights = {"params": params, "batch_stats": batch_stats}
    return RecognitionState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        key=key,
        averaged=jax.tree.map(jnp.copy, weights) if averaged else {},
    )


def make_step(
    head: DecoderHead,
    optimizer: optax.GradientTransformation,
    *,
    encode: EncodeFn | None = None,
    view_ops: int = 0,
    average: float = 0.0,
) -> Callable[[RecognitionState, Mapping[str, Any]], tuple[RecognitionState, dict[str, Any]]]:
    """One optimiser step as a pure function `(state, batch) -> (state, metrics)`.

    Args:
      head: the decoder.
      optimizer: from `recognition_optimizer`.
      encode: the encoder in training mode; None for inputs that are frames already.
      view_ops: with `encode`: light augmentation of the images with at most so many operations
        (method section 1); 0 for none.
      average: share of the old value in each step of the moving average of weights and running
        statistics, less at the beginning; used where the state has an average.

    Returns:
      The step. `batch["inputs"]` holds frames (B, T, D), or uint8 images (B, 32, W, 3) with
      `encode`; the rest is `head.targets`. Metrics: `loss`, `grad_norm`, scalars.
    """

    def step(
        state: RecognitionState, batch: Mapping[str, Any]
    ) -> tuple[RecognitionState, dict[str, Any]]:
        inputs = batch["inputs"]
        if encode is not None:
            inputs = images_to_float(inputs)
            if view_ops:
                key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), VIEW_PURPOSE)
                inputs = make_view(key, inputs, max_ops=view_ops)

        def objective(params: Tree) -> tuple[Any, Tree]:
            frames, statistics = inputs, state.batch_stats
            if encode is not None:
                frames, statistics = encode(params.get("encoder"), state.batch_stats, inputs)
            total, count = head.loss(params["decoder"], frames.astype(jnp.float32), batch)
            return total / jnp.maximum(count, 1.0), statistics

        (loss, statistics), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(grads)}
        params, averaged = optax.apply_updates(state.params, updates), state.averaged
        if averaged:
            # At the beginning the average is that of few steps: it must not remember the start.
            kept = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step))
            now = {"params": params, "batch_stats": statistics}
            averaged = jax.tree.map(lambda a, b: kept * a + (1 - kept) * b, averaged, now)
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=statistics,
            opt_state=opt_state,
            averaged=averaged,
        )
        return state, metrics

    return step


def make_chunk(
    step: Callable[..., tuple[RecognitionState, dict[str, Any]]],
) -> Callable[..., tuple[RecognitionState, dict[str, Any]]]:
    """Several steps in one compiled call, over words that lie in device memory.

    Returns:
      `chunk(state, memory, rows, active) -> (state, metrics)`: `memory` holds arrays with one
      row per word, `rows` (steps, batch) int32 says which words enter each step, `active`
      (steps,) bool is False for steps that only fill the last call up (they are skipped, so that
      one compilation serves all calls). Metrics are arrays (steps,), NaN for skipped steps.
    """

    def body(
        memory: Tree, state: RecognitionState, x: tuple[Int[Array, "batch"], Bool[Array, ""]]
    ) -> tuple[RecognitionState, dict[str, Any]]:
        rows, active = x

        def run(state: RecognitionState) -> tuple[RecognitionState, dict[str, Any]]:
            state, metrics = step(state, jax.tree.map(lambda column: column[rows], memory))
            return state, {name: value.astype(jnp.float32) for name, value in metrics.items()}

        def skip(state: RecognitionState) -> tuple[RecognitionState, dict[str, Any]]:
            return state, {"loss": jnp.float32(jnp.nan), "grad_norm": jnp.float32(jnp.nan)}

        return jax.lax.cond(active, run, skip, state)

    def chunk(
        state: RecognitionState,
        memory: Tree,
        rows: Int[Array, "steps batch"],
        active: Bool[Array, "steps"],
    ) -> tuple[RecognitionState, dict[str, Any]]:
        if rows.shape[0] == 1:
            # Convolutions inside a loop or a branch run several times slower on CPU.
            state, metrics = step(state, jax.tree.map(lambda column: column[rows[0]], memory))
            return state, {name: value.astype(jnp.float32)[None] for name, value in metrics.items()}

        def scanned(
            state: RecognitionState, x: tuple[Any, Any]
        ) -> tuple[RecognitionState, dict[str, Any]]:
            return body(memory, state, x)

        return jax.lax.scan(scanned, state, (rows, active))

    return jax.jit(chunk, donate_argnums=0)


def epoch_rows(
    seed: int, num_words: int, batch_size: int, first_step: int, steps: int
) -> np.ndarray:
    """Which words enter the steps `first_step … first_step + steps - 1`.

    Words are shuffled anew in every epoch, and the epochs follow one another without a gap, so that
    every word is seen equally often and a batch may be larger than the set. A pure function of its
    arguments: a continued run draws the same rows.

    Returns:
      int32 (steps, batch_size), values in [0, num_words).
    """
    start, stop = first_step * batch_size, (first_step + steps) * batch_size
    epochs = range(start // num_words, (stop - 1) // num_words + 1)
    orders = [np.random.default_rng((seed, epoch)).permutation(num_words) for epoch in epochs]
    offset = start - epochs.start * num_words
    flat = np.concatenate(orders)[offset : offset + stop - start]
    return flat.astype(np.int32).reshape(steps, batch_size)
