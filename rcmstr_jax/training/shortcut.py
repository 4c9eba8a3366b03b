"""How often colours alone find the positive: then frames can be told apart without reading."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Array, Float

from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.state import PretrainState
from rcmstr_jax.training.step_inputs import draw_inputs

STRIPS = 8
RIDGE = 0.1


def colour_statistics(
    images: Float[np.ndarray, "batch height width 3"],
) -> Float[np.ndarray, "batch numbers"]:
    """Mean and deviation of every channel in eight vertical strips: 48 numbers an image."""
    strips = np.array_split(np.asarray(images, np.float64), STRIPS, axis=2)
    found = [f(strip, axis=(1, 2)) for strip in strips for f in (np.mean, np.std)]
    return np.concatenate(found, axis=1)


def found_by_colour(
    first: Float[np.ndarray, "batch height width 3"],
    second: Float[np.ndarray, "batch height width 3"],
) -> float:
    """Share of images whose other view is the nearest by colour statistics alone.

    A linear map from the statistics of a view to those of the other is fitted on every second image
    and held against the rest (METHOD.md 1); distances count each number by how well it is known.

    Args:
      first, second: views of the same images, row by row; at least four.

    Returns:
      In [0, 1]; by chance one over half the images.
    """
    a, b = (colour_statistics(images) for images in (first, second))
    fit, held = slice(0, None, 2), slice(1, None, 2)
    for x in (a, b):
        x -= x[fit].mean(0)
        x /= x[fit].std(0) + 1e-6
    # Ridge regression in its dual form, whose residuals with each image left out are at hand: they
    # say how much of each number of the other view can be known.
    inverse = np.linalg.inv(a[fit] @ a[fit].T + RIDGE * len(a[fit]) * np.eye(len(a[fit])))
    dual = inverse @ b[fit]
    unknown = np.square(dual / np.diag(inverse)[:, None]).mean(0) + 1e-3
    predicted = a[held] @ a[fit].T @ dual
    distances = (np.square(predicted[:, None] - b[held][None]) / unknown).sum(-1)
    return float(np.mean(distances.argmin(1) == np.arange(len(distances))))


def shortcut_gauge(
    plan: PretrainPlan,
) -> Callable[[PretrainState, Mapping[str, Array]], dict[str, float]]:
    """`(state, batch) -> {"shortcut/colour": share}`, of this host's first device."""

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def views(state: PretrainState, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        inputs = draw_inputs(plan, state.step_key, batch["image"], batch["index"])
        return inputs["view_q"], inputs["view_k"]

    def gauge(state: PretrainState, batch: Mapping[str, Array]) -> dict[str, float]:
        needed = state.replace(  # type: ignore[attr-defined]
            params={}, opt_state=(), queues={}, momentum_params={}, batch_stats={},
            momentum_batch_stats={}, frozen_params={},
        )  # fmt: skip
        found = views(parallel.unreplicate(needed), parallel.unreplicate(dict(batch)))
        return {"shortcut/colour": found_by_colour(*map(np.asarray, found))}

    return gauge
