"""How well a pretrained network fills in hidden patches of words that it was not trained on.

The loss is that of training: the mean squared error over hidden patches, each patch normalised by
its own mean and deviation. Predicting every patch's mean scores a little below 1: the deviation is
the unbiased one, and a patch of one colour has nothing to predict. So that number stands beside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.records import RecordSource, is_endless
from rcmstr_jax.recognition.words import Subset
from rcmstr_jax.runtime.checkpoint import CheckpointError, Checkpoints
from rcmstr_jax.runtime.digest import nested
from rcmstr_jax.ssl.masking import draw_mask
from rcmstr_jax.ssl.reconstruction import (
    patch_moments,
    patch_targets,
    reconstruction_loss,
    restore_images,
)
from rcmstr_jax.training.build import build_model, image_size, mask_grid, patch_size
from rcmstr_jax.training.step_inputs import images_to_float

Tree = Any
# `(variables, images in [-1, 1], mask) -> patches`, normalised or raw as the model was trained.
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


def checkpoint_steps(workdir: str | Path) -> list[int]:
    """Steps of a pretraining run that have a checkpoint, oldest first.

    Raises:
      CheckpointError: if there is none.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        steps = sorted(checkpoints.steps())
    if not steps:
        raise CheckpointError(f"{workdir} holds no checkpoint yet")
    return steps


def load_network(workdir: str | Path, step: int | None = None) -> tuple[int, ConfigDict, Tree]:
    """Step, config and variables of the online branch of a pretraining run.

    Args:
      workdir: the run's --workdir.
      step: of the checkpoint; the newest by default.

    Raises:
      CheckpointError: if there is no readable checkpoint (of this step).
      ValueError: if the run had no masked image modelling.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        found, config, arrays = checkpoints.read(step)
    if not config.mim.enabled:
        raise ValueError(f"--pretrained={workdir}: trained with mim.enabled=False, nothing to fill")
    params = {**nested(arrays, "params"), **nested(arrays, "frozen_params")}
    return found, config, {"params": params, "batch_stats": nested(arrays, "batch_stats")}


def with_masks(
    config: ConfigDict,
    kind: str,
    mask_ratio: float | None = None,
    block_ratio: float | None = None,
) -> ConfigDict:
    """The config with other masks; None keeps its ratio.

    "block" hides by the block alone what the other kinds hide in all.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.mim.kind = kind
        config.mim.mask_ratio = mask_ratio or config.mim.mask_ratio
        config.mim.block_ratio = block_ratio or config.mim.block_ratio
        if kind == "block":
            config.mim.block_ratio = config.mim.mask_ratio
    return config


def load_images(
    source: RecordSource, config: ConfigDict, *, words: int, seed: int, faults: FaultLog
) -> UInt8[np.ndarray, "words height width 3"]:
    """Up to `words` words of a finite source, drawn by seed; unreadable ones are noted, left out.

    Raises:
      ValueError: if the source never ends, or holds nothing that can be read.
    """
    if is_endless(source):
        raise ValueError(
            f"--source={source.name} never ends: give it a size, as in synthetic:SEED:COUNT"
        )
    order = np.random.default_rng(seed).permutation(len(source))[:words]
    cache = DecodedCache.build(Subset(source, order.tolist()), image_size(config), faults=faults)
    return cache.images[cache.valid]


def predictor(config: ConfigDict) -> Predict:
    """The masked pass of the config's network, normalised by its own batch as in training."""
    model = build_model(config)

    def predict(variables: Tree, images: Array, mask: Array) -> Array:
        (patches, _), _ = model.apply(
            variables, images, mask, train=True, method="reconstruct", mutable=["batch_stats"]
        )
        return patches

    return predict


def rectify(config: ConfigDict, variables: Tree, images: Array) -> Array:
    """What the network has to reconstruct: the image, straightened where it has a rectifier."""
    straightened: Any = build_model(config).apply(variables, images, method="rectify")
    return straightened


def draw_masks(
    config: ConfigDict, key: PRNGKeyArray, indices: Array
) -> Bool[Array, "batch rows columns"]:
    """The mask of every word, by its place: the same in every batch size and for every network."""
    mim = config.mim

    def draw(index: Array) -> Array:
        return draw_mask(
            jax.random.fold_in(key, index),
            1,
            mask_grid(config),
            mask_ratio=mim.mask_ratio,
            block_ratio=mim.block_ratio,
            kind=mim.kind,
        )[0]

    return jax.vmap(draw)(indices)


def make_scorer(
    config: ConfigDict, *, batch_size: int, seed: int = 0, predict: Predict | None = None
) -> Callable[[Tree, UInt8[np.ndarray, "words height width 3"]], Score]:
    """Builds `(variables, images) -> Score`, compiled once for all checkpoints and sources.

    Batch normalisation sees full batches: the last one is filled up with words that do not count.

    Args:
      config: of the run; `with_masks` exchanges the masks.
      batch_size: words per pass, at most all of them.
      seed: of the masks.
      predict: the masked pass; that of the config by default.
    """
    run = predict or predictor(config)
    patch, normalized = patch_size(config), config.mim.normalize_targets

    @jax.jit
    def sums(variables: Tree, images: Array, indices: Array, weight: Array) -> Array:
        target_images = rectify(config, variables, images_to_float(images))
        mask = draw_masks(config, jax.random.key(seed), indices)
        prediction = run(variables, target_images, mask).astype(jnp.float32)
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

    def score(variables: Tree, images: UInt8[np.ndarray, "words height width 3"]) -> Score:
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
    config: ConfigDict,
    variables: Tree,
    images: UInt8[np.ndarray, "words height width 3"],
    seed: int,
) -> Mapping[str, Float[np.ndarray, "words height width 3"]]:
    """Images for a picture: `target`, `mask` and `reconstruction` (visible patches as they are).

    Reconstructed patches take mean and deviation of the true ones, which the network never saw.
    """
    patch = patch_size(config)

    @jax.jit
    def paint(variables: Tree, images: Array) -> dict[str, Array]:
        target = rectify(config, variables, images_to_float(images))
        mask = draw_masks(config, jax.random.key(seed), jnp.arange(len(images)))
        prediction = predictor(config)(variables, target, mask).astype(jnp.float32)
        painted = restore_images(prediction, target, patch, config.mim.normalize_targets)
        hidden = mask.repeat(patch[0], 1).repeat(patch[1], 2)[..., None]
        return {
            "target": target,
            "mask": mask,
            "reconstruction": jnp.where(hidden, painted, target),
        }

    return {name: np.asarray(value) for name, value in paint(variables, images).items()}
