"""Pictures of what a run sees and learns, into `WORKDIR/pictures`.

`views.png`, `rearranged.png` and `curves.png` are replaced; the reconstructions of every time are
kept as `masks-STEP.png`, because they show the progress.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.plotting import figures
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.runtime.curves import read_metrics
from rcmstr_jax.runtime.writers import METRICS
from rcmstr_jax.ssl.rearrange import rearrange_images
from rcmstr_jax.training.masked_pass import fill_in
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.state import PretrainState
from rcmstr_jax.training.step_inputs import draw_inputs, images_to_float

# Images of a device that enter a picture (and the statistics of its masked pass).
IMAGES = 16


def picture_saver(
    plan: PretrainPlan, model: RCMSTR, workdir: Path
) -> Callable[[int, PretrainState, Mapping[str, Array]], None]:
    """`(step, state, batch) -> None`: draws and saves every picture of a run.

    Of a few images of this host's first device; the state is replicated, the batch sharded. Views,
    permutation and mask are those the step would draw. The model is built without a device axis;
    nothing is compiled before the first use.
    """

    # Runs a few times: quickly compiled is better than quick.
    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def draw(state: PretrainState, batch: Mapping[str, Array]) -> dict[str, Array]:
        out = draw_inputs(plan, state.step_key, batch["image"], batch["index"])
        out["image"] = images_to_float(batch["image"])
        if plan.rearrange is not None:
            out["rearranged"] = rearrange_images(
                out["view_q"], out["permutation"], blocks=plan.rearrange.blocks
            )
        if plan.mask is not None and plan.mask.target == "pixels":
            variables = {
                "params": {**state.params, **state.frozen_params},
                "batch_stats": state.batch_stats,
            }
            out |= fill_in(plan.mask, model, variables, out["view_q"], out["mask"])
        return out

    group = plan.rearrange.group if plan.rearrange else 1

    def save(step: int, state: PretrainState, batch: Mapping[str, Array]) -> None:
        first = parallel.unreplicate(dict(batch))
        local = len(first["image"])
        count = max(group, min(local, IMAGES) // group * group)
        needed = dataclasses.replace(state, opt_state=(), queues={}, momentum_params={})
        arrays = draw(
            parallel.unreplicate(needed),
            {name: value[:count] for name, value in first.items()},
        )
        shown = {name: np.asarray(value) for name, value in arrays.items()}
        folder = workdir / "pictures"
        figures.save_views(folder / "views.png", shown["image"], shown["view_q"], shown["view_k"])
        if "rearranged" in shown:
            figures.save_rearranged(
                folder / "rearranged.png",
                shown["view_q"],
                shown["rearranged"],
                shown["permutation"],
            )
        if "reconstruction" in shown:
            figures.save_masks(
                folder / f"masks-{step:06d}.png",
                shown["target"],
                figures.hide_patches(shown["target"], shown["mask"]),
                shown["reconstruction"],
                shown["target"],
            )
        metrics = workdir / METRICS
        if metrics.exists() and metrics.stat().st_size:  # not before the first metric line
            figures.save_curves(folder / "curves.png", read_metrics(metrics))

    return save
