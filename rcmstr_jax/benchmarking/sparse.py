"""The masked encoder: packed against masked-dense against dense, forward and backward."""

from __future__ import annotations

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


def crossover(rows: Iterable[Row]) -> dict[int, float]:
    """Per width the share of visible patches up to which "auto" should take the packed form.

    Of all thresholds the one whose slowest choice, relative to the better form, is the fastest;
    of equal ones the largest. Beyond the threshold, up to the next measured share, "auto" is dense.
    """
    found: dict[int, float] = {}
    for width, times in _times(rows).items():
        shares = [0.0, *sorted(times)]
        found[width] = max(shares, key=lambda limit: (-_worst_choice(times, limit), limit))
    return found


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
    if what not in ("sparse", "all"):
        raise ValueError(f"--what={what} with --update_table: only --what=sparse measures forms")
    entries = f"its entries are of {BATCH} images of {IMAGE_WIDTH} pixels"
    if settings.batch != BATCH:
        raise ValueError(
            f"--batch={settings.batch} with --update_table: {entries}; use --batch={BATCH}"
        )
    if settings.image_width != IMAGE_WIDTH:
        raise ValueError(
            f"--model={settings.model} with --update_table: {entries}; use --model=cnn"
        )
    if names:
        raise ValueError(
            f"--cases={','.join(names)} with --update_table: its entries compare all cases; "
            "leave --cases out"
        )


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
    of_platform[arithmetic] = dict(sorted(widths.items(), key=_as_number))
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _as_number(item: tuple[str, float]) -> int:
    return int(item[0])


def _times(rows: Iterable[Row]) -> dict[int, dict[float, dict[str, float]]]:
    """{width: {share of visible patches: {form: seconds}}} of the masked forms."""
    times: dict[int, dict[float, dict[str, float]]] = {}
    for row in rows:
        if row["form"] != "dense":
            of_width = times.setdefault(row["width"], {})
            of_width.setdefault(round(1 - row["ratio"], 6), {})[row["form"]] = row["seconds"]
    return times


def _worst_choice(times: dict[float, dict[str, float]], limit: float) -> float:
    """Largest time relative to the better form's, if packed is taken up to this share."""
    return max(
        seconds["packed" if share <= limit else "masked_dense"] / min(seconds.values())
        for share, seconds in times.items()
    )
