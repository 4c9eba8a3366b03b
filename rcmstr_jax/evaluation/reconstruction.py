"""How well a pretrained network fills in hidden patches of words that it was not trained on.

The loss is that of training: the mean squared error over hidden patches, each patch normalised by
its own mean and deviation. Predicting every patch's mean scores a little below 1: the deviation is
the unbiased one, and a patch of one colour has nothing to predict. So that number stands beside.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.records import RecordSource, is_endless
from rcmstr_jax.recognition.words import Subset
from rcmstr_jax.runtime.weights import read_weights
from rcmstr_jax.ssl.reconstruction import patch_moments, patch_targets, reconstruction_loss
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.masked_pass import fill_in, predict_patches, rectify
from rcmstr_jax.training.plan import MaskPlan, PretrainPlan, pretrain_plan
from rcmstr_jax.training.step_inputs import draw_masks, images_to_float

Words = UInt8[np.ndarray, "words height width 3"]

Tree = Any
# `(variables, images in [-1, 1], mask) -> float32 patches`, normalised or raw as in training.
Predict = Callable[[Tree, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Score:
    """Reconstruction of the hidden patches of some words.

    Attributes:
      words: how many.
      loss: mean squared error of normalised patches.
      column_loss: the same over columns that are hidden from top to bottom, as blocks are; there
        the context alone can help. None if the masks leave no such column.
      patch_mean: the same if every patch's own mean were predicted.
      explained: share of the pixels' variance around their patch's mean that the prediction
        explains, patches of strong contrast counting more. 1 is perfect, 0 predicts the means.
    """

    words: int
    loss: float
    column_loss: float | None
    patch_mean: float
    explained: float


def load_network(workdir: str | Path, step: int | None = None) -> tuple[int, PretrainPlan, Tree]:
    """Step, plan and variables of a pretraining run's online branch; of its newest checkpoint.

    Raises:
      CheckpointError: if there is no readable checkpoint (of this step).
      ValueError: if the run had no masked image modelling, or predicted no pixels.
    """
    weights = read_weights(workdir, step=step)
    plan = pretrain_plan(weights.config)
    if plan.mask is None:
        raise ValueError(f"--pretrained={workdir}: trained with mim.enabled=False, nothing to fill")
    if plan.mask.target == "momentum":
        raise ValueError(
            f"--pretrained={workdir}: trained with mim.target=momentum, which predicts no pixels"
        )
    return weights.step, plan, weights.variables


def with_masks(
    plan: PretrainPlan,
    kind: str,
    mask_ratio: float | None = None,
    block_ratio: float | None = None,
) -> PretrainPlan:
    """The plan with other masks; None keeps its ratio.

    "block" hides by the block alone what the other kinds hide in all.

    Raises:
      ValueError: masks that hide nothing or everything.
    """
    mask = mask_of(plan)
    ratio = mask_ratio or mask.mask_ratio
    block = ratio if kind == "block" else block_ratio or mask.block_ratio
    mask = dataclasses.replace(mask, kind=kind, mask_ratio=ratio, block_ratio=block)
    _ = mask.visible
    return dataclasses.replace(plan, mask=mask)


def mask_of(plan: PretrainPlan) -> MaskPlan:
    """The masks of a plan that has them, as `load_network` has seen to."""
    assert plan.mask is not None
    return plan.mask


def load_images(
    source: RecordSource, plan: PretrainPlan, *, words: int, seed: int, faults: FaultLog
) -> Words:
    """Up to `words` words of a finite source, drawn by seed; unreadable ones are noted, left out.

    Raises:
      ValueError: if the source never ends, or holds nothing that can be read.
    """
    if is_endless(source):
        raise ValueError(
            f"--source={source.name} never ends: give it a size, as in synthetic:SEED:COUNT"
        )
    order = np.random.default_rng(seed).permutation(len(source))[:words]
    cache = DecodedCache.build(Subset(source, order.tolist()), plan.model.image_size, faults=faults)
    return cache.images[cache.valid]


def make_scorer(
    plan: PretrainPlan, *, batch_size: int, seed: int = 0, predict: Predict | None = None
) -> Callable[[Tree, Words], Score]:
    """Builds `(variables, images) -> Score`, compiled once for all checkpoints and sources.

    Batch normalisation sees full batches: the last one is filled up with words that do not count.

    Args:
      plan: of the run; `with_masks` exchanges the masks.
      batch_size: words per pass, at most all of them.
      seed: of the masks.
      predict: the masked pass; that of the plan by default.
    """
    model, mask_plan = build_model(plan), mask_of(plan)
    run = predict or functools.partial(predict_patches, model)
    patch, normalized = mask_plan.patch, mask_plan.normalize_targets

    @jax.jit
    def sums(variables: Tree, images: Array, indices: Array, weight: Array) -> Array:
        target_images = rectify(model, variables, images_to_float(images))
        mask = draw_masks(mask_plan, jax.random.key(seed), indices)
        prediction = run(variables, target_images, mask)
        mean, deviation = patch_moments(target_images, patch)
        if not normalized:
            prediction = (prediction - mean) / deviation
        target = patch_targets(target_images, patch)
        counted = mask & (weight > 0)[:, None, None]
        nothing = jnp.zeros_like(target)
        error, count = reconstruction_loss(prediction, target, counted)
        columns = counted & jnp.all(mask, axis=1, keepdims=True)
        column_error, column_count = reconstruction_loss(prediction, target, columns)
        spread, _ = reconstruction_loss(nothing, target, counted)
        pixels, _ = reconstruction_loss(prediction * deviation, target * deviation, counted)
        variance, _ = reconstruction_loss(nothing, target * deviation, counted)
        return jnp.stack(
            [error, count, column_error, column_count, spread, count, pixels, variance]
        )

    def score(variables: Tree, images: Words) -> Score:
        size = min(batch_size, len(images))
        total = np.zeros(8)
        for start in range(0, len(images), size):
            rows = np.arange(start, start + size)
            weight = (rows < len(images)).astype(np.float32)
            rows %= len(images)
            total += np.asarray(sums(variables, images[rows], rows, weight), np.float64)
        loss, column_loss, patch_mean, unexplained = (
            float(part / count) if count else None for part, count in total.reshape(4, 2)
        )
        assert loss is not None and patch_mean is not None and unexplained is not None
        return Score(len(images), loss, column_loss, patch_mean, 1 - unexplained)

    return score


def reconstruct_images(
    plan: PretrainPlan, variables: Tree, images: Words, seed: int
) -> Mapping[str, Shaped[np.ndarray, "words ..."]]:
    """Images for a picture, see `masked_pass.fill_in`; masks are drawn by seed."""
    mask_plan, model = mask_of(plan), build_model(plan)

    @jax.jit
    def paint(variables: Tree, images: Array) -> dict[str, Array]:
        mask = draw_masks(mask_plan, jax.random.key(seed), jnp.arange(len(images)))
        return fill_in(mask_plan, model, variables, images_to_float(images), mask)

    return {name: np.asarray(value) for name, value in paint(variables, images).items()}
