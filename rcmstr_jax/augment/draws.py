"""Per-image randomness: one key per image, whatever the batch it travels in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Keys = Key[Array, " batch"]

Range = tuple[float, float]


def image_keys(
    key: Key[Array, ""], batch: int, indices: Int[Array, " batch"] | None = None
) -> Keys:
    """One key per image, folded from the image's own number.

    Args:
      key: the batch's typed key (`jax.random.key`).
      batch: number of images.
      indices: number of each image in the global batch (or in the dataset); `0 … batch-1` if
        None. Passing them makes the draws independent of batch order and of how many devices
        share the batch.

    Returns:
      `batch` typed keys.

    Raises:
      ValueError: `indices` does not hold one number per image.
    """
    numbers = jnp.arange(batch) if indices is None else indices
    if numbers.shape != (batch,):
        raise ValueError(
            f"indices has shape {numbers.shape} for {batch} images; pass one integer per image"
        )
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def fold_all(keys: Keys, purpose: int) -> Keys:
    """Fold one purpose into the key of every image."""
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)


def uniform(keys: Keys, bounds: Range, shape: tuple[int, ...] = ()) -> Float[Array, "batch ..."]:
    """Uniform float32 draws in `bounds`, of `shape`, for every image.

    Draws are float32 at any image type, so that a float64 run sees the same views.
    """
    low, high = bounds
    return jax.vmap(lambda k: jax.random.uniform(k, shape, jnp.float32, low, high))(keys)


def scale_unit(draws: Float[Array, "..."], bounds: Range) -> Float[Array, "..."]:
    """Map uniform draws of [0, 1) to `bounds`."""
    low, high = bounds
    return low + draws * (high - low)


def bounded_normal(
    keys: Keys, shape: tuple[int, ...], limit: float = 2.5
) -> Float[Array, "batch ..."]:
    """Standard normal float32 draws, clipped at `limit` deviations, for every image."""
    draws = jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys)
    return jnp.clip(draws, -limit, limit)


def check_range(name: str, bounds: Range, least: float = 0.0, most: float = float("inf")) -> None:
    """Complain about a range that is no pair, falls, or leaves what makes sense.

    Raises:
      ValueError: naming the range, its value and what would be right.
    """
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most:
        raise ValueError(
            f"{name} = {tuple(bounds)}: give (low, high) with {least:g} <= low <= high"
            + ("" if most == float("inf") else f" <= {most:g}")
        )
