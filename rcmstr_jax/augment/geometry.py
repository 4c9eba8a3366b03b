"""Geometric operations of a view, and the one resampling that applies them (RCMSTR section 1).

Every operation is a map from a place in the output to the place in its input that is shown
there. Places are (u, v), right and down, in units of the image: pixel i of n spans i/n … (i+1)/n
and its centre is (i + 0.5)/n. Composing operations is composing maps, so that a view is
resampled (and softened) once, however many operations made it.
"""

from __future__ import annotations

import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from rcmstr_jax.augment.draws import Range, bounded_normal, fold_all, uniform

Images = Float[Array, "batch height width channels"]
Keys = Key[Array, " batch"]
Homographies = Float[Array, "batch 3 3"]
Numbers = Float[Array, " batch"]

GRID = 4  # control points per side of the piecewise affine jitter, imgaug's default

Coordinates = tuple[Float[Array, "batch height width"], Float[Array, "batch height width"]]


def pixel_centres(
    height: int, width: int, dtype: DTypeLike
) -> tuple[Float[Array, "1 1 width"], Float[Array, "1 height 1"]]:
    """Centres of the output pixels, to be broadcast."""
    u = (jnp.arange(width, dtype=dtype) + 0.5) / width
    v = (jnp.arange(height, dtype=dtype) + 0.5) / height
    return u[None, None, :], v[None, :, None]


def crop_map(low: Numbers, high: Numbers, *, axis: str) -> Homographies:
    """Cut the share `low` off the top or left and `high` off the bottom or right, and resize.

    Args:
      low: share cut before the kept window.
      high: share cut after it.
      axis: "rows" or "columns".

    Returns:
      Output-to-input homographies.
    """
    kept, zero, one = 1 - low - high, jnp.zeros_like(low), jnp.ones_like(low)
    if axis == "rows":
        entries = [one, zero, zero, zero, kept, low, zero, zero, one]
    elif axis == "columns":
        entries = [kept, zero, low, zero, one, zero, zero, zero, one]
    else:
        raise ValueError(f"axis={axis!r} is no axis of an image; use 'rows' or 'columns'")
    return rearrange(jnp.stack(entries), "(row column) b -> b row column", row=3)


def quad_map(corners: Float[Array, "batch 4 2"]) -> Homographies:
    """Homography that takes the unit square to a quadrilateral.

    Args:
      corners: (u, v) in the input shown at the output's top left, top right, bottom right and
        bottom left corner.

    Returns:
      Output-to-input homographies (Heckbert's closed form).
    """
    (x0, x1, x2, x3), (y0, y1, y2, y3) = (corners[..., i].T for i in (0, 1))
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    dx1, dx2, dy1, dy2 = x1 - x2, x3 - x2, y1 - y2, y3 - y2
    det = dx1 * dy2 - dx2 * dy1
    g = (sum_x * dy2 - dx2 * sum_y) / det
    h = (dx1 * sum_y - sum_x * dy1) / det
    entries = [x1 - x0 + g * x1, x3 - x0 + h * x3, x0]
    entries += [y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h, jnp.ones_like(g)]
    return rearrange(jnp.stack(entries), "(row column) b -> b row column", row=3)


def apply_homography(homography: Homographies, u: Array, v: Array) -> Coordinates:
    """Image of the places (u, v) under one homography per image."""
    m = homography[:, :, :, None, None]
    scale = 1 / (m[:, 2, 0] * u + m[:, 2, 1] * v + m[:, 2, 2])
    return (
        (m[:, 0, 0] * u + m[:, 0, 1] * v + m[:, 0, 2]) * scale,
        (m[:, 1, 0] * u + m[:, 1, 1] * v + m[:, 1, 2]) * scale,
    )


def apply_piecewise_affine(offsets: Float[Array, "batch n n 2"], u: Array, v: Array) -> Coordinates:
    """Move places by offsets given at n × n control points, affine on every triangle between.

    Args:
      offsets: (du, dv) at control point [row, column]; the points span the image, corners
        included, and each cell is cut along the diagonal from top left to bottom right.
    """
    n = offsets.shape[1]
    # Telescoped over the cells: the share of each cell's step that (u, v) has passed, along the
    # top edge, along the left edge, and of the cell's twist. min(s, t) makes two triangles of a
    # cell (s * t would make it bilinear), at a third of the cost of one hat per control point.
    right = offsets[:, :1, 1:] - offsets[:, :1, :-1]
    down = offsets[:, 1:, :1] - offsets[:, :-1, :1]
    twist = jnp.diff(jnp.diff(offsets, axis=1), axis=2)
    passed_u = [jnp.clip(u * (n - 1) - i, 0, 1) for i in range(n - 1)]
    passed_v = [jnp.clip(v * (n - 1) - i, 0, 1) for i in range(n - 1)]
    terms = [(passed_u[i], right[:, 0, i]) for i in range(n - 1)]
    terms += [(passed_v[i], down[:, i, 0]) for i in range(n - 1)]
    terms += [
        (jnp.minimum(passed_u[i], passed_v[j]), twist[:, j, i])
        for j in range(n - 1)
        for i in range(n - 1)
    ]
    du, dv = (
        sum(
            (share * step[:, axis, None, None] for share, step in terms),
            start=offsets[:, 0, 0, axis, None, None],
        )
        for axis in (0, 1)
    )
    return u + du, v + dv


def resample(
    images: Images, u: Float[Array, "batch rows columns"], v: Float[Array, "batch rows columns"]
) -> Float[Array, "batch rows columns channels"]:
    """Bilinear interpolation at the places (u, v), edge padded.

    Args:
      images: any float, at least 2 × 2 pixels.
      u: horizontal place of every output pixel, in units of the image.
      v: the vertical one.

    Returns:
      Images of the type of `images` and the size of `u`.
    """
    batch, height, width, _ = images.shape
    x = jnp.clip(u * width - 0.5, 0, width - 1)
    y = jnp.clip(v * height - 0.5, 0, height - 1)
    # One short of the last pixel, so that the right and lower neighbours always exist.
    left = jnp.minimum(jnp.floor(x), width - 2)
    top = jnp.minimum(jnp.floor(y), height - 2)
    across, down = (x - left)[..., None], (y - top)[..., None]
    start = jnp.arange(batch, dtype=jnp.int32)[:, None, None] * (height * width)
    first = start + top.astype(jnp.int32) * width + left.astype(jnp.int32)
    pixels = rearrange(images, "b h w c -> (b h w) c")

    def fetch(offset: int) -> Array:
        # Flat rows in bounds by construction: several times faster on CPUs than map_coordinates.
        return pixels.at[first + offset].get(mode="promise_in_bounds")

    upper = fetch(0) * (1 - across) + fetch(1) * across
    lower = fetch(width) * (1 - across) + fetch(width + 1) * across
    return upper * (1 - down) + lower * down


def draw_crop(keys: Keys, share: Range, *, axis: str) -> Homographies:
    """Homographies of crops whose two cuts are drawn from `share` each."""
    cuts = uniform(keys, share, (2,))
    return crop_map(cuts[:, 0], cuts[:, 1], axis=axis)


def draw_perspective(keys: Keys, scale: Range) -> Homographies:
    """Homographies that show a quadrilateral just inside the image.

    Each corner moves inwards by half-normal draws (at most 2.5 deviations) times the image's
    size times a scale drawn per image from `scale`, as in imgaug's `PerspectiveTransform`.
    """
    draws = jnp.abs(bounded_normal(keys, (4, 2)))
    inset = draws * _own_scale(keys, scale)[:, None, None]
    square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], jnp.float32)
    return quad_map(square[None] + (1 - 2 * square)[None] * inset)


def draw_piecewise_affine(keys: Keys, scale: Range) -> Float[Array, "batch 4 4 2"]:
    """Offsets of the control points: normal draws times a scale drawn per image from `scale`.

    Draws are clipped at 2.5 deviations: at the default scales no two columns can swap then.
    """
    return bounded_normal(keys, (GRID, GRID, 2)) * _own_scale(keys, scale)[:, None, None, None]


def _own_scale(keys: Keys, scale: Range) -> Numbers:
    # Folded once more, or the scale would share its bits with the first of the normal draws.
    return uniform(fold_all(keys, 1), scale)
