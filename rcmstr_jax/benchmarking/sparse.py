"""The masked encoder: packed against masked-dense against dense, forward and backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.benchmarking.cases import Case, Program, Settings, compiled_program
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.ssl.masking import draw_mask, visible_count

FORMS = ("dense", "masked_dense", "packed")
ROWS = 4  # patches of 8 x 4 pixels


def cases(settings: Settings) -> list[Case]:
    """Every form at every ratio; "dense" does not depend on it and stands there for comparison."""

    def prepare(form: str, ratio: float) -> Program:
        step, arguments = masked_step(settings, form, ratio)
        return compiled_program(step, *arguments)

    return [
        Case(
            "sparse",
            f"{form} {ratio:g}",
            lambda f=form, r=ratio: prepare(f, r),  # type: ignore[misc]
            settings.batch,
            {"form": form, "ratio": ratio},
        )
        for ratio in settings.ratios
        for form in FORMS
    ]


def masked_step(settings: Settings, form: str, ratio: float) -> tuple[Any, tuple[Any, ...]]:
    """Forward and backward pass of the CNN encoder in training mode, and its arguments."""
    grid = (ROWS, settings.image_width // 4)
    kind = "patch_block" if ratio >= 0.3 else "patch"  # light masks have no room for the block
    shape = (settings.batch, 32, settings.image_width, 3)
    model = ResNet(width=settings.width, dtype=settings.dtype)
    images = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    variables = _variables(model, images[:1])
    mask = draw_mask(jax.random.key(2), settings.batch, grid, mask_ratio=ratio, kind=kind)
    masked: dict[str, Any] = {
        "form": form,
        "visible_count": visible_count(grid, ratio, kind=kind),
    }

    def loss(params: Any, stats: Any, images: Any, mask: Any) -> Any:
        options = {} if form == "dense" else {"mask": mask, **masked}
        (features, _), state = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
            **options,
        )
        return jnp.sum(jnp.square(features.astype(jnp.float32))), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step, (variables["params"], variables["batch_stats"], images, mask)


def _variables(model: ResNet, images: Any) -> Any:
    """Parameters and statistics, drawn without compiling an initialisation."""
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> Any:
        if leaf.ndim == 4:
            deviation = (2 / np.prod(leaf.shape[:3])) ** 0.5
            return jnp.asarray(random.normal(size=leaf.shape) * deviation, leaf.dtype)
        one = path[-1].key in ("scale", "var")
        return jnp.full(leaf.shape, float(one), leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(1), images)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def crossover(rows: Iterable[dict[str, Any]]) -> dict[int, float]:
    """Per width the largest share of visible patches at which packed is at least as fast.

    This is one platform's entry of `rcmstr_jax.models.forms.PACKED_UP_TO`.
    """
    rows = list(rows)
    found: dict[int, float] = {}
    for width in sorted({row["width"] for row in rows}):
        times = {
            (row["form"], row["ratio"]): row["seconds"] for row in rows if row["width"] == width
        }
        found[width] = 0.0
        for ratio in sorted({ratio for _, ratio in times}, reverse=True):
            if times["packed", ratio] > times["masked_dense", ratio]:
                break
            found[width] = round(1 - ratio, 6)
    return found
