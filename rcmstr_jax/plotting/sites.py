"""One mask at every resolution of the encoder, drawn as SVG from the sites that are computed."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from rcmstr_jax.models.sites import Sites

# What stands between the resolutions of the 29-layer ResNet: (kernel, strides, padding).
_POOL = ((2, 2), (2, 2), (0, 0))
_TALL = ((2, 2), (2, 1), (0, 1))
_LAST = ((2, 2), (1, 1), (0, 0))
RESOLUTIONS = (
    ("pixels, conv0_1, conv0_2", None),
    ("stage 1, after a 2 × 2 pool", _POOL),
    ("stage 2, after a 2 × 2 pool", _POOL),
    ("stages 3 and 4, after a 2 × 2 pool that keeps the columns and adds one", _TALL),
    ("conv4_1, 2 × 2, keeps the columns and adds one", _TALL),
    ("conv4_2, 2 × 2: the frames", _LAST),
)
_PIXEL, _MARGIN, _TEXT, _GAP = 5, 14, 22, 16
_ACTIVE, _HIDDEN, _LINE, _INK = "#0072b2", "#eef1f4", "#c8d0d8", "#333d47"


def _map(
    active: Bool[np.ndarray, "rows columns"], top: float, unit: tuple[float, float]
) -> Iterator[str]:
    """The rectangles of a map whose sites are `unit` (height, width) large."""
    high, wide = unit
    rows, columns = active.shape
    yield (
        f'<rect x="{_MARGIN}" y="{top:g}" width="{columns * wide:g}" height="{rows * high:g}" '
        f'fill="{_HIDDEN}" stroke="{_LINE}"/>'
    )
    for row, sites in enumerate(np.pad(active, ((0, 0), (1, 1)))):
        # Where a run of active sites begins, and where it ends.
        for first, end in np.flatnonzero(np.diff(sites)).reshape(-1, 2):
            yield (
                f'<rect x="{_MARGIN + first * wide:g}" y="{top + row * high:g}" '
                f'width="{(end - first) * wide:g}" height="{high:g}" fill="{_ACTIVE}"/>'
            )
    if high >= 8:  # the borders of single pixels would hide them
        down = [f"M{_MARGIN} {top + row * high:g}h{columns * wide:g}" for row in range(1, rows)]
        right = [f"M{_MARGIN + c * wide:g} {top:g}v{rows * high:g}" for c in range(1, columns)]
        yield f'<path d="{"".join(down + right)}" stroke="#ffffff" stroke-width="0.8"/>'


def draw_sites(hidden: Bool[np.ndarray, "rows columns"], size: tuple[int, int]) -> str:
    """An SVG of the active sites at every resolution, with their numbers.

    Args:
      hidden: patches of one image, True where hidden.
      size: height and width of the image in pixels.
    """
    visible = int(np.sum(~hidden))
    sites = Sites.from_patches(jnp.asarray(hidden)[None], size, visible)
    parts, top, wide = [], float(_MARGIN), _PIXEL
    height = size[0] * _PIXEL
    for label, window in RESOLUTIONS:
        if window is not None:
            sites = sites.through(*window)
            wide *= window[1][1]
        active = np.asarray(sites.active[0])
        rows, columns = active.shape
        text = (
            f"{rows} × {columns} · {label} · {int(active.sum())} of {rows * columns} sites "
            f"({active.mean():.0%}), {sites.capacity} slots"
        )
        parts.append(f'<text x="{_MARGIN}" y="{top + 14:g}">{text}</text>')
        # A site is as wide as its stride; columns beyond the image come from padding.
        parts.extend(_map(active, top + _TEXT, (height / rows, wide)))
        top += _TEXT + height + _GAP
    width = (size[1] + 2 * 4) * _PIXEL + 2 * _MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top:g}" width="{width}" '
        f'height="{top:g}" font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif" '
        f'font-size="12" fill="{_INK}">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{top:g}" fill="#ffffff"/>', *parts]) + (
        "\n</svg>\n"
    )
