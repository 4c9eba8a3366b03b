"""Pictures of a run, as PNG files: views, rearranged pairs, reconstructions, curves.

NumPy, Pillow and Matplotlib, no display needed and no global state: figures are drawn with
Matplotlib's own objects, never through `pyplot`, and it is imported with the first of them. Images
are uint8, or floats in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from PIL import Image, ImageDraw, ImageFont

from rcmstr_jax.runtime.curves import moving_average

MAX_ROWS = 8
# One colour per block, readable on any word and with the common kinds of colour blindness.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#666666")
_POINTS, _DPI = 9, 110


def to_pixels(images: Num[np.ndarray, "..."]) -> np.ndarray:
    """uint8 pixels of images that are uint8 already or floats in [-1, 1]; others are clipped."""
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return array
    scaled = (np.nan_to_num(array.astype(np.float32)) + 1) * 127.5
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def hide_patches(
    images: Float[np.ndarray, "batch height width channels"],
    mask: Bool[np.ndarray, "batch rows columns"],
    *,
    value: float = 0.0,
) -> Float[np.ndarray, "batch height width channels"]:
    """Paints the hidden patches of images in one shade.

    Args:
      images: floats in [-1, 1].
      mask: True where a patch is hidden; the grid must divide the image.
      value: shade, mid grey by default.

    Returns:
      A copy with hidden patches painted.

    Raises:
      ValueError: if the grid does not divide the image.
    """
    images, mask = np.asarray(images), np.asarray(mask)
    (height, width), (rows, columns) = images.shape[1:3], mask.shape[1:]
    if height % rows or width % columns:
        raise ValueError(f"mask of {rows} x {columns} patches does not divide {height} x {width}")
    hidden = mask.repeat(height // rows, 1).repeat(width // columns, 2)
    return np.where(hidden[..., None], np.asarray(value, images.dtype), images)


def _require_alike(**images: Any) -> dict[str, np.ndarray]:
    """Batches of equal shape, as arrays; single images become batches of one."""
    arrays = {name: np.asarray(value) for name, value in images.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"pictures need equally many images of one size, got {shapes}")
    if next(iter(arrays.values())).ndim not in (3, 4):
        raise ValueError(f"pictures need (batch, height, width, channels), got {shapes}")
    return {n: array if array.ndim == 4 else array[None] for n, array in arrays.items()}


def _show(axes: Any, image: np.ndarray, title: str = "") -> None:
    pixels = to_pixels(image)
    pixels = pixels.repeat(3, -1) if pixels.shape[-1] == 1 else pixels
    axes.imshow(pixels, interpolation="nearest", aspect="equal")
    axes.set(xticks=[], yticks=[], frame_on=False)
    axes.set_title(title, fontsize=_POINTS)


def _label(axes: Any, text: str, points: int) -> None:
    axes.set_ylabel(text, fontsize=points, rotation=0, ha="right", va="center")


def _grid(
    rows: int, columns: int, image: np.ndarray, title: str, *, label: int = 0
) -> tuple[Any, np.ndarray]:
    """Axes for rows x columns images, each twice its size, and room for labels in pixels."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height, width = image.shape[:2]
    size = ((label + columns * (2 * width + 8)) / _DPI, (rows * (2 * height + 8) + 60) / _DPI)
    spacing = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0, wspace=0)
    figure = Figure(size, dpi=_DPI, layout=spacing)
    figure.suptitle(title, fontsize=_POINTS + 1)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: str | Path, *, colours: int = 0) -> None:
    """Writes a PNG file, with a palette of so many colours if given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if colours:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def save_views(
    path: str | Path,
    images: Num[np.ndarray, "batch height width channels"],
    view_q: Num[np.ndarray, "batch height width channels"],
    view_k: Num[np.ndarray, "batch height width channels"],
) -> None:
    """Each word beside its two views.

    Args:
      path: PNG file; folders are made.
      images: words before augmentation, at most the first 8 are shown.
      view_q: views of the online branch (queries).
      view_k: views of the momentum branch (keys).

    Raises:
      ValueError: if the three differ in shape.
    """
    batches = list(_require_alike(images=images, view_q=view_q, view_k=view_k).values())
    rows = min(len(batches[0]), MAX_ROWS)
    figure, axes = _grid(rows, 3, batches[0][0], "Two views of every word")
    titles = ("word", "query view (online)", "key view (momentum)")
    for column, (batch, title) in enumerate(zip(batches, titles, strict=True)):
        for row in range(rows):
            _show(axes[row, column], batch[row], "" if row else title)
    _save(figure, path)


def save_rearranged(
    path: str | Path,
    images: Num[np.ndarray, "batch height width channels"],
    rearranged: Num[np.ndarray, "batch height width channels"],
    permutation: Int[np.ndarray, "groups blocks_of_group"],
) -> None:
    """Groups of words before and after relational rearrangement, every block outlined.

    Args:
      path: PNG file; folders are made.
      images: query views; consecutive ones form a group.
      rearranged: the same after their blocks were exchanged.
      permutation: place i of a group received block `permutation[i]`, blocks counted from left
        to right, image by image. At most the groups among the first 8 images are shown.

    Raises:
      ValueError: if the shapes do not fit one another.
    """
    before, after = _require_alike(images=images, rearranged=rearranged).values()
    permutation = np.atleast_2d(permutation)
    groups, places = permutation.shape
    group = len(before) // groups
    width = before.shape[2]
    if group * groups != len(before) or places % group or width % (places // group):
        raise ValueError(
            f"permutation of shape {permutation.shape} does not fit {len(before)} images of "
            f"width {width}: one row per group, and blocks that divide images and width"
        )
    blocks = places // group
    shown = max(1, MAX_ROWS // group)
    rows = min(groups, shown) * group
    figure, axes = _grid(rows, 2, before[0], "Relational rearrangement", label=110)
    for row in range(rows):
        index, member = divmod(row, group)
        here = list(range(member * blocks, (member + 1) * blocks))
        received = permutation[index, here].tolist()
        for place, image, numbers, title in (
            (axes[row, 0], before[row], here, "query view"),
            (axes[row, 1], after[row], received, "rearranged"),
        ):
            _show(place, image, "" if row else title)
            _outline(place, numbers, image.shape)
        if member == 0:
            order = " ".join(map(str, permutation[index]))
            _label(axes[row, 0], f"group {index}: [{order}]", _POINTS - 2)
    _save(figure, path)


def _outline(axes: Any, numbers: Sequence[int], size: tuple[int, ...]) -> None:
    from matplotlib.patches import Rectangle

    height, width = size[0], size[1] / len(numbers)
    for place, number in enumerate(numbers):
        colour = COLOURS[number % len(COLOURS)]
        corner = (place * width + 0.5, 0.5)
        axes.add_patch(
            Rectangle(corner, width - 2, height - 2, fill=False, edgecolor=colour, linewidth=2)
        )
        axes.text(
            corner[0] + 1,
            1,
            str(number),
            va="top",
            color="white",
            fontsize=_POINTS - 1,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )


def save_masks(
    path: str | Path,
    image: Num[np.ndarray, "*batch height width channels"],
    masked: Num[np.ndarray, "*batch height width channels"],
    reconstruction: Num[np.ndarray, "*batch height width channels"],
    target: Num[np.ndarray, "*batch height width channels"],
) -> None:
    """Masked image modelling: mask, input, reconstruction and target, one word per column.

    Args:
      path: PNG file; folders are made.
      image: words as the online branch sees them unmasked (a batch, or one image).
      masked: the same with the hidden patches painted (`hide_patches`).
      reconstruction: visible patches as they are, hidden ones as predicted.
      target: what the prediction is compared with, shown as pixels.

    Raises:
      ValueError: if the four differ in shape.
    """
    inputs = _require_alike(mask=masked, input=image, reconstruction=reconstruction, target=target)
    columns = min(len(inputs["mask"]), 4)
    figure, axes = _grid(4, columns, inputs["mask"][0], "Masked image modelling", label=100)
    for row, (label, batch) in enumerate(inputs.items()):
        for column in range(columns):
            _show(axes[row, column], batch[column])
        _label(axes[row, 0], label, _POINTS - 1)
    _save(figure, path)


def save_comparison(
    path: str | Path, columns: Mapping[str, Num[np.ndarray, "batch height width 3"]]
) -> None:
    """Pictures of the same words beside one another, a word per row.

    Args:
      path: PNG file; folders are made.
      columns: pictures by title, all of one size.

    Raises:
      ValueError: if they differ in shape.
    """
    batches = _require_alike(**columns)
    first = next(iter(batches.values()))
    figure, axes = _grid(len(first), len(batches), first[0], "")
    for column, (title, batch) in enumerate(batches.items()):
        for row, image in enumerate(batch):
            _show(axes[row, column], image, "" if row else title)
    _save(figure, path)


def save_words(
    path: str | Path,
    images: Num[np.ndarray, "batch height width channels"],
    captions: Sequence[tuple[str, str]],
    *,
    columns: int = 6,
) -> None:
    """Words, each above what was read; misread ones in another colour, above what they are.

    Args:
      path: PNG file; folders are made.
      images: crops of words.
      captions: what was read, and what is written there ("" where that is the same).
      columns: words in a row.
    """
    height, width = images.shape[1:3]
    rows = math.ceil(len(images) / columns)
    canvas = Image.new("RGB", (columns * (width + 12) * 2, rows * (2 * height + 34)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_POINTS + 5)
    for number, (image, (read, written)) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        corner = 2 * (width + 12) * column + 12, (2 * height + 34) * row + 4
        crop = Image.fromarray(to_pixels(image)).resize((2 * width, 2 * height))
        canvas.paste(crop, corner)
        said = f"{read} (is {written})" if written else read
        below = corner[0], corner[1] + 2 * height + 4
        pen.text(below, said, COLOURS[1] if written else COLOURS[2], font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def save_curves(path: str | Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Curves of a run: one panel per group of metrics (`loss`, `accuracy/frame` …: `accuracy`).

    Args:
      path: PNG file; folders are made.
      curves: steps and values by name, as `runtime.curves.read_metrics` returns them. Those longer
        than 100 points are drawn faintly, with a moving average on top.

    Raises:
      ValueError: if there are none.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError(f"{path}: the run holds no metrics; is it at its first log yet?")
    groups: dict[str, list[str]] = {}
    for name in sorted(curves, key=lambda name: (not name.startswith("loss"), name)):
        groups.setdefault(name.partition("/")[0], []).append(name)
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.7 * rows), dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (group, names) in zip(axes, groups.items(), strict=False):
        for number, name in enumerate(names):
            steps, values = curves[name]
            colour = COLOURS[number % len(COLOURS)]
            label = name.partition("/")[2] or name
            many = len(values) > 100
            if many:
                panel.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                values = moving_average(values, len(values) // 25)
            marker = "." if len(values) < 20 else None
            panel.plot(steps, values, color=colour, linewidth=1.4, label=label, marker=marker)
        panel.set_title(group.replace("_", " "), fontsize=_POINTS + 1)
        panel.set_xlabel("step", fontsize=_POINTS - 1)
        panel.tick_params(labelsize=_POINTS - 1)
        panel.grid(alpha=0.25)
        panel.margins(x=0.01)
        if len(names) > 1:
            panel.legend(fontsize=_POINTS - 2, framealpha=0.6)
    for unused in axes[len(groups) :]:
        unused.set_visible(False)
    _save(figure, path, colours=96)
