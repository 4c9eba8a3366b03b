"""The two views of a word (RCMSTR section 1): one to five mild operations, drawn per image.

How the drawn order is honoured although all geometry is one resampling:

- geometric operations compose in their drawn order, as maps (`compose_geometry`), with edge
  padding where the order puts it;
- blur and sharpening act on pixels, and keep their side of the row crop, the only operation
  that changes the scale by more than a few per cent (up to five times): drawn before it they
  run before the resampling, else after it. With the nearly rigid other three they commute
  for all practical purposes, contrast commutes with resampling exactly;
- contrast keeps its side of sharpening (`photometry.filter_stage`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from rcmstr_jax.augment import geometry, photometry
from rcmstr_jax.augment.colour import ColourJitter, apply_colours, draw_colours
from rcmstr_jax.augment.draws import (
    Range,
    check_range,
    fold_all,
    image_keys,
    scale_unit,
    uniform,
)

Images = Float[Array, "batch height width channels"]

OPERATIONS = (
    "crop_rows",
    "crop_columns",
    "perspective",
    "piecewise_affine",
    "contrast",
    "blur",
    "sharpen",
)
_ROWS, _COLUMNS, _PERSPECTIVE, _PIECEWISE, _CONTRAST, _BLUR, _SHARPEN = range(7)
_COLOUR = 9  # after the seven operations, their order and their number

# Two cuts must leave something of the image, and control points must not pass one another.
_MOST = {
    **{"crop_rows": 0.45, "crop_columns": 0.45, "sharpen_alpha": 1.0},
    **{"piecewise_affine": 0.05, "perspective": 0.1},
}


@dataclasses.dataclass(frozen=True)
class ViewRanges:
    """Ranges of the light augmentation; the defaults are the method's.

    Attributes:
      contrast: factor around mid grey.
      blur: deviation in pixels.
      crop_rows: share of the height cut off the top, and off the bottom.
      crop_columns: share of the width cut off the left, and off the right.
      sharpen_alpha: share of the sharpened image.
      sharpen_lightness: its brightness.
      piecewise_affine: jitter of the control points, in units of the image.
      perspective: inset of the corners, in units of the image.

    Raises:
      ValueError: on construction, naming the field, its value and what would be right.
    """

    contrast: Range = (0.5, 1.0)
    blur: Range = (0.5, 1.5)
    crop_rows: Range = (0.0, 0.4)
    crop_columns: Range = (0.0, 0.02)
    sharpen_alpha: Range = (0.0, 0.5)
    sharpen_lightness: Range = (0.0, 0.5)
    piecewise_affine: Range = (0.02, 0.03)
    perspective: Range = (0.01, 0.02)

    def __post_init__(self) -> None:
        for name, bounds in vars(self).items():
            check_range(f"ViewRanges.{name}", bounds, 0.0, _MOST.get(name, float("inf")))


LIGHT = ViewRanges()


class Plan(NamedTuple):
    """What was drawn for every image of a batch.

    Attributes:
      active: (batch, 7) which of `OPERATIONS` happen.
      time: (batch, 7) int32, their order; also given, and meaningless, for inactive ones.
      homographies: (batch, 3, 3, 3) of row crop, column crop and perspective, output to input.
      offsets: (batch, 4, 4, 2) of the piecewise affine control points.
      contrast: (batch,) factor.
      sigma: (batch,) of the blur, in pixels.
      sharpen: (batch, 2) alpha and lightness.
    """

    active: Bool[Array, "batch 7"]
    time: Int[Array, "batch 7"]
    homographies: Float[Array, "batch 3 3 3"]
    offsets: Float[Array, "batch 4 4 2"]
    contrast: Float[Array, " batch"]
    sigma: Float[Array, " batch"]
    sharpen: Float[Array, "batch 2"]


def draw_plan(
    keys: Key[Array, " batch"],
    *,
    min_ops: int = 1,
    max_ops: int = 5,
    operations: Collection[str] = OPERATIONS,
    ranges: ViewRanges = LIGHT,
) -> Plan:
    """Draw number, kinds, order and strengths of the operations of every image, see `make_view`.

    Returns:
      The plan, all floats float32.
    """
    own = partial(fold_all, keys)
    lots = uniform(own(len(OPERATIONS)), (0.0, 1.0), (len(OPERATIONS),))
    if set(operations) != set(OPERATIONS):  # the others come last, after any number of operations
        allowed = jnp.array([name in operations for name in OPERATIONS])
        lots = jnp.where(allowed[None], lots, 2.0)
    time = (lots[:, None, :] < lots[:, :, None]).sum(-1)
    draw_count = jax.vmap(lambda k: jax.random.randint(k, (), min_ops, max_ops + 1))
    count = draw_count(own(len(OPERATIONS) + 1))
    homographies = [
        geometry.draw_crop(own(_ROWS), ranges.crop_rows, axis="rows"),
        geometry.draw_crop(own(_COLUMNS), ranges.crop_columns, axis="columns"),
        geometry.draw_perspective(own(_PERSPECTIVE), ranges.perspective),
    ]
    strengths = uniform(own(_SHARPEN), (0.0, 1.0), (2,)).T
    sharpening = map(scale_unit, strengths, (ranges.sharpen_alpha, ranges.sharpen_lightness))
    return Plan(
        active=time < count[:, None],
        time=time,
        homographies=jnp.stack(homographies, 1),
        offsets=geometry.draw_piecewise_affine(own(_PIECEWISE), ranges.piecewise_affine),
        contrast=uniform(own(_CONTRAST), ranges.contrast),
        sigma=uniform(own(_BLUR), ranges.blur),
        sharpen=jnp.stack(list(sharpening), -1),
    )


def compose_geometry(plan: Plan, height: int, width: int, dtype: DTypeLike) -> geometry.Coordinates:
    """Where every output pixel looks in the source, all active geometry composed in order.

    Returns:
      u and v, (batch, height, width) each, in units of the image. Along every row u increases;
      where edge padding repeats a column it stays, to a hundredth of a pixel.
    """
    kinds = jnp.array([_ROWS, _COLUMNS, _PERSPECTIVE])
    order = jnp.argsort(plan.time[:, kinds], axis=1)
    kinds = kinds[order]
    maps = jnp.take_along_axis(plan.homographies.astype(dtype), order[:, :, None, None], 1)
    active = jnp.take_along_axis(plan.active, kinds, 1)
    early = jnp.take_along_axis(plan.time, kinds, 1) < plan.time[:, _PIECEWISE, None]

    def chain(chosen: Bool[Array, "batch 3"]) -> Float[Array, "batch 3 3"]:
        kept = jnp.where(chosen[:, :, None, None], maps, jnp.eye(3, dtype=dtype)[None, None])
        # A place in the output meets the operation that came last first. Sums of products
        # written out: a matrix unit would round the coordinates.
        first = (kept[:, 0, :, :, None] * kept[:, 1, None, :, :]).sum(2)
        return (first[:, :, :, None] * kept[:, 2, None, :, :]).sum(2)

    u, v = geometry.pixel_centres(height, width, dtype)
    u, v = geometry.apply_homography(chain(active & ~early), u, v)
    jitter = plan.active[:, _PIECEWISE, None, None, None]
    offsets = jnp.where(jitter, plan.offsets, 0.0).astype(dtype)
    u, v = geometry.apply_piecewise_affine(offsets, u, v)
    # Edge padding: a place beyond the outermost pixel centres shows the nearest of them.
    u, v = (jnp.clip(x, 0.5 / n, 1 - 0.5 / n) for x, n in ((u, width), (v, height)))
    return geometry.apply_homography(chain(active & early), u, v)


def apply_plan(plan: Plan, images: Images) -> Images:
    """Carry out a plan: filters drawn before the row crop, the resampling, the other filters."""
    cropped = plan.active[:, _ROWS, None]
    before = plan.active & cropped & (plan.time < plan.time[:, _ROWS, None])
    after = plan.active & ~before
    contrast_last = plan.time[:, _CONTRAST] > plan.time[:, _SHARPEN]

    def filters(chosen: Bool[Array, "batch 7"], pixels: Array) -> Array:
        return photometry.filter_stage(
            pixels,
            blur=chosen[:, _BLUR],
            sigma=plan.sigma,
            sharp=chosen[:, _SHARPEN],
            alpha=plan.sharpen[:, 0],
            lightness=plan.sharpen[:, 1],
            contrast=jnp.where(chosen[:, _CONTRAST], plan.contrast, 1.0),
            contrast_last=contrast_last,
        )

    _, height, width, _ = images.shape
    u, v = compose_geometry(plan, height, width, images.dtype)
    return filters(after, geometry.resample(filters(before, images), u, v))


def make_view(
    key: Key[Array, ""],
    images: Images,
    *,
    indices: Int[Array, " batch"] | None = None,
    min_ops: int = 1,
    max_ops: int = 5,
    operations: Collection[str] = OPERATIONS,
    ranges: ViewRanges = LIGHT,
    colour: ColourJitter | None = None,
) -> Images:
    """One random view of every image (method section 1, "light" augmentation).

    Pure, jittable, the same on every device count: image i draws from
    `fold_in(key, indices[i])`. Call it twice with different keys for the query and the key view.

    Args:
      key: typed key of this batch and view.
      images: float32 or float64 in [-1, 1], at least 3 pixels high and wide.
      indices: number of each image in the global batch; its place in `images` if None.
      min_ops: least number of operations per image.
      max_ops: greatest number, at most that of `operations`; the number is uniform between the two,
        the kinds are drawn without replacement.
      operations: which kinds may happen; one of them and `max_ops=1` applies it alone.
      ranges: strengths of the operations.
      colour: colour operations, after all others and not counted among them; None for none, as
        published. They need three channels.

    Returns:
      Views of the same shape and type, in [-1, 1]. Horizontal order is kept.

    Raises:
      ValueError: impossible numbers of operations, or images that are too small or not floats.
    """
    if not set(operations) <= set(OPERATIONS):
        raise ValueError(f"operations={operations}: choose from {', '.join(OPERATIONS)}")
    if not 0 <= min_ops <= max_ops <= len(operations):
        raise ValueError(
            f"min_ops={min_ops}, max_ops={max_ops}: views take "
            f"0 <= min_ops <= max_ops <= {len(operations)} operations"
        )
    if images.ndim != 4 or min(images.shape[1:3]) < 3:
        raise ValueError(
            f"images of shape {images.shape}; views take (batch, height, width, channels) with "
            "at least 3 pixels each way"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images of type {images.dtype}; convert them to floats in [-1, 1]")
    keys = image_keys(key, len(images), indices)
    if colour is not None and images.shape[-1] != 3:
        raise ValueError(f"images of shape {images.shape}; colour operations take three channels")
    plan = draw_plan(keys, min_ops=min_ops, max_ops=max_ops, operations=operations, ranges=ranges)
    views = apply_plan(plan, images)
    if colour is None:
        return views
    return apply_colours(draw_colours(fold_all(keys, _COLOUR), colour), views)
