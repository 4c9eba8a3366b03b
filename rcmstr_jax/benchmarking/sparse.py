"""The masked encoder: packed against masked-dense against dense, forward and backward."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.benchmarking.cases import Case, Program, Settings, compiled_program
from rcmstr_jax.benchmarking.report import Row
from rcmstr_jax.models.forms import BATCH, IMAGE_WIDTH, PATH, Table, choose_form
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.ssl.masking import draw_mask, visible_count
from rcmstr_jax.training.plan import ModelPlan

FORMS = ("dense", "masked_dense", "packed")


def cases(settings: Settings) -> list[Case]:
    """Every form at every ratio; "dense" does not depend on it and stands there for comparison."""

    def prepare(form: str, ratio: float) -> Program:
        step, arguments = masked_step(settings, form, ratio)
        return compiled_program(step, *arguments)

    return [
        Case(
            "sparse",
            f"{form} {ratio:g}",
            functools.partial(prepare, form, ratio),
            settings.batch,
            {"form": form, "ratio": ratio},
        )
        for ratio in settings.ratios
        for form in FORMS
    ]


def masked_step(settings: Settings, form: str, ratio: float) -> tuple[Any, tuple[Any, ...]]:
    """Forward and backward pass of the CNN encoder in training mode, and its arguments."""
    grid = ModelPlan(image_width=settings.image_width).grid
    kind = "patch_block" if ratio >= 0.3 else "patch"  # light masks have no room for the block
    shape = (settings.batch, 32, settings.image_width, 3)
    model = ResNet(width=settings.width, dtype=settings.dtype)
    images = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    # What the numbers are does not matter, and compiling their initialisation would take long.
    shapes = jax.eval_shape(model.init, jax.random.key(1), images[:1])
    normal = functools.partial(np.random.default_rng(0).normal, 0.0, 0.1)
    variables = jax.tree.map(lambda leaf: jnp.asarray(normal(leaf.shape), leaf.dtype), shapes)
    mask = draw_mask(jax.random.key(2), settings.batch, grid, mask_ratio=ratio, kind=kind)
    count = visible_count(grid, ratio, kind=kind)

    def loss(params: Any, stats: Any, images: Any, mask: Any) -> Any:
        options: dict[str, Any] = {}
        if form != "dense":
            options = {"mask": mask, "form": form, "visible_count": count}
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


def crossover(rows: Iterable[Row]) -> dict[int, float]:
    """Per width the share of visible patches up to which "auto" should take the packed form.

    Of all thresholds the one whose slowest choice, relative to the better form, is the fastest;
    of equal ones the largest. Beyond the threshold, up to the next measured share, "auto" is dense.
    """

    def slowest_choice(times: dict[float, dict[str, float]], limit: float) -> float:
        return max(
            seconds["packed" if share <= limit else "masked_dense"] / min(seconds.values())
            for share, seconds in times.items()
        )

    return {
        width: max((0.0, *times), key=lambda limit: (-slowest_choice(times, limit), limit))
        for width, times in _times(rows).items()
    }


def describe_choice(rows: Iterable[Row], table: Table | None = None) -> list[str]:
    """What "auto" takes at every measured point, and what that costs.

    Args:
      rows: of one platform and precision, with both masked forms.
      table: as `models.forms.choose_form` takes it.
    """
    lines, measured = [], list(rows)
    platform, arithmetic = measured[0]["platform"], measured[0]["precision"]
    for width, times in _times(measured).items():
        for share, seconds in sorted(times.items(), reverse=True):
            form = choose_form(platform, arithmetic, width, share, table)
            excess = seconds[form] / min(seconds.values()) - 1
            gain = seconds["masked_dense"] / seconds["packed"]
            lines.append(
                f"width {width}, {1 - share:.0%} hidden: packed is {gain:.2f} times as fast as "
                f"masked_dense; auto takes {form}, {excess:.0%} slower than the better one"
            )
    return lines


def check_update(what: str, settings: Settings, names: Sequence[str] = ()) -> None:
    """Whether what is going to be measured can enter the table that "auto" reads.

    Args:
      what: the tables to measure.
      settings: of the measurement.
      names: cases that were picked; none for all.

    Raises:
      ValueError: naming the flag that does not fit, its value and the remedy.
    """
    entries = f"its entries are of {BATCH} images of {IMAGE_WIDTH} pixels"
    for flag, good, remedy in (
        (f"what={what}", what in ("sparse", "all"), "only --what=sparse measures forms"),
        (f"batch={settings.batch}", settings.batch == BATCH, f"{entries}; use --batch={BATCH}"),
        (
            f"model={settings.model}",
            settings.image_width == IMAGE_WIDTH,
            f"{entries}; use --model=cnn",
        ),
        (
            f"cases={','.join(names)}",
            not names,
            "its entries compare all cases; leave --cases out",
        ),
    ):
        if not good:
            raise ValueError(f"--{flag} with --update_table: {remedy}")


def update_table(rows: Iterable[Row], path: Path = PATH) -> None:
    """Writes the thresholds of the measured widths into the table that "auto" reads.

    Args:
      rows: of one platform and precision, measured as `check_update` demands.
      path: the table.
    """
    measured = list(rows)
    platform, arithmetic = measured[0]["platform"], measured[0]["precision"]
    table = json.loads(path.read_text(encoding="utf-8"))
    of_platform = table.setdefault(platform, {})
    widths = of_platform.get(arithmetic, {})
    widths.update({str(width): share for width, share in crossover(measured).items()})
    of_platform[arithmetic] = dict(sorted(widths.items(), key=lambda item: int(item[0])))
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _times(rows: Iterable[Row]) -> dict[int, dict[float, dict[str, float]]]:
    """{width: {share of visible patches: {form: seconds}}} of the masked forms."""
    times: Any = collections.defaultdict(lambda: collections.defaultdict(dict))
    for row in rows:
        if row["form"] != "dense":
            times[row["width"]][round(1 - row["ratio"], 6)][row["form"]] = row["seconds"]
    return times
