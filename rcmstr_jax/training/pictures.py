"""Pictures of what a run sees and learns, into `WORKDIR/pictures`.

`views.png`, `rearranged.png` and `curves.png` are replaced; the reconstructions of every time are
kept as `masks-STEP.png`, because they show the progress.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.plotting import figures
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.runtime.curves import read_metrics
from rcmstr_jax.runtime.writers import METRICS
from rcmstr_jax.ssl.rearrange import rearrange_images
from rcmstr_jax.ssl.reconstruction import restore_images
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.state import PretrainState
from rcmstr_jax.training.step_inputs import draw_inputs, images_to_float

# Images of a device that enter a picture (and the statistics of its masked pass).
IMAGES = 16


def make_picture_fn(
    plan: PretrainPlan, model: RCMSTR
) -> Callable[[PretrainState, Mapping[str, Array]], dict[str, Array]]:
    """Builds the function behind the pictures.

    Args:
      plan: of the run.
      model: built without a device axis.

    Returns:
      `(state, batch) -> arrays`, for one device: `image`, `view_q`, `view_k`, with rearrangement
      `rearranged` and `permutation`, with MIM `mask`, `target` (the rectified query view) and
      `reconstruction` (hidden patches as predicted, the others as they are). Images are floats
      `(B, 32, W, 3)` in [-1, 1]; views, permutation and mask are those the step would draw.
    """

    def draw(state: PretrainState, batch: Mapping[str, Array]) -> dict[str, Array]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        out = draw_inputs(plan, key, batch["image"], batch["index"])
        out["image"] = images_to_float(batch["image"])
        if plan.rearrange is not None:
            out["rearranged"] = rearrange_images(
                out["view_q"], out["permutation"], blocks=plan.rearrange.blocks
            )
        if plan.mask is not None:
            variables = {
                "params": {**state.params, **state.frozen_params},
                "batch_stats": state.batch_stats,
            }
            # As in training: the masked pass is normalised by its own batch, and leaves no trace.
            target = cast(Array, model.apply(variables, out["view_q"], method="rectify"))
            (prediction, _), _ = model.apply(
                variables,
                target,
                out["mask"],
                train=True,
                method="reconstruct",
                mutable=["batch_stats"],
            )
            patch = plan.mask.patch
            painted = restore_images(
                prediction.astype(jnp.float32), target, patch, plan.mask.normalize_targets
            )
            hidden = out["mask"].repeat(patch[0], 1).repeat(patch[1], 2)[..., None]
            out["target"] = target
            out["reconstruction"] = jnp.where(hidden, painted, target)
        return out

    return draw


class Pictures:
    """Draws and saves the pictures of a run."""

    def __init__(self, plan: PretrainPlan, model: RCMSTR, workdir: Path) -> None:
        """Takes the model as `make_picture_fn` does; nothing is compiled before the first use."""
        # Runs a few times: quickly compiled is better than quick.
        self._draw = jax.jit(make_picture_fn(plan, model), compiler_options=QUICKLY)
        self._group = plan.rearrange.group if plan.rearrange else 1
        self._workdir = workdir

    def save(self, step: int, state: PretrainState, batch: Mapping[str, Array]) -> None:
        """Saves every picture.

        Args:
          step: finished steps.
          state: replicated.
          batch: sharded; a few images of this host's first device are shown.
        """
        first = parallel.unreplicate(dict(batch))
        local = len(first["image"])
        count = max(self._group, min(local, IMAGES) // self._group * self._group)
        needed = dataclasses.replace(state, opt_state=(), queues={}, momentum_params={})
        arrays = self._draw(
            parallel.unreplicate(needed),
            {name: value[:count] for name, value in first.items()},
        )
        shown = {name: np.asarray(value) for name, value in arrays.items()}
        folder = self._workdir / "pictures"
        figures.save_views(folder / "views.png", shown["image"], shown["view_q"], shown["view_k"])
        if "rearranged" in shown:
            figures.save_rearranged(
                folder / "rearranged.png",
                shown["view_q"],
                shown["rearranged"],
                shown["permutation"],
            )
        if "mask" in shown:
            figures.save_masks(
                folder / f"masks-{step:06d}.png",
                shown["target"],
                figures.hide_patches(shown["target"], shown["mask"]),
                shown["reconstruction"],
                shown["target"],
            )
        metrics = self._workdir / METRICS
        if metrics.exists() and metrics.stat().st_size:  # not before the first metric line
            figures.save_curves(folder / "curves.png", read_metrics(metrics))
