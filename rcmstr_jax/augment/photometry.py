"""Photometric operations of a view: contrast, blur, sharpening (RCMSTR section 1).

Images are floats in [-1, 1], channels last; `filter_stage` does all three in one pass over the
pixels, with one parameter of each per image.
"""

from __future__ import annotations

import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

Images = Float[Array, "batch height width channels"]
Numbers = Float[Array, " batch"]
Choice = Bool[Array, " batch"]

BLUR_RADIUS = 2  # imgaug's window for deviations up to 1.5 pixels: five taps


def _shifted_sum(rows: Array, axis: int, weights: list[Array], step: int) -> Array:
    """Symmetric filter along `axis`, borders mirrored without repeating the edge.

    `rows` is (batch, height, width * channels): with the channels folded into the width the
    shifts are contiguous and vectorise, several times faster on CPUs than on (…, width, 3).
    The barriers keep XLA from recomputing one filter inside the next.
    """
    radius, length = len(weights) - 1, rows.shape[axis]

    def block(start: int) -> Array:
        return lax.slice_in_dim(rows, start * step, (start + 1) * step, axis=axis)

    last = length // step - 1
    left = [block(i) for i in range(radius, 0, -1)]
    right = [block(last - i) for i in range(1, radius + 1)]
    padded = lax.optimization_barrier(jnp.concatenate([*left, rows, *right], axis))

    def shifted(offset: int) -> Array:
        start = (radius + offset) * step
        return lax.slice_in_dim(padded, start, start + length, axis=axis)

    total = weights[0] * shifted(0)
    for i in range(1, radius + 1):
        total = total + weights[i] * (shifted(i) + shifted(-i))
    return lax.optimization_barrier(total)


def _filter_both_ways(rows: Array, weights: list[Array], channels: int) -> Array:
    # Columns last: XLA's CPU compiler recomputes ten times as much the other way round.
    return _shifted_sum(_shifted_sum(rows, 1, weights, 1), 2, weights, channels)


def _gaussian_taps(sigma: Array, active: Array, dtype: DTypeLike) -> list[Array]:
    """Centre and one-sided weights, (batch, 1, 1) each; a unit impulse where not active."""
    radius = BLUR_RADIUS
    safe = jnp.where(active & (sigma > 0), sigma, 1.0).astype(dtype)
    taps = jnp.exp(-0.5 * (jnp.arange(radius + 1, dtype=dtype)[None] / safe[:, None]) ** 2)
    taps = taps / (2 * taps.sum(1, keepdims=True) - taps[:, :1])
    impulse = (jnp.arange(radius + 1) == 0).astype(dtype)
    taps = jnp.where((active & (sigma > 0))[:, None], taps, impulse[None])
    return [taps[:, i, None, None] for i in range(radius + 1)]


def filter_stage(
    images: Images,
    *,
    blur: Choice,
    sigma: Numbers,
    sharp: Choice,
    alpha: Numbers,
    lightness: Numbers,
    contrast: Numbers,
    contrast_last: Choice,
) -> Images:
    """Blur, sharpening and contrast of every image, each on or off, in one pass.

    Sharpening blends with a sharpened image, as imgaug's `Sharpen` does on pixels scaled to [0, 1]:
    the kernel is `(1 - alpha) * identity + alpha * S`, with S 8 + lightness in the centre and -1
    around. So flat areas come out `1 - alpha + alpha * lightness` times as bright (lightness 1
    keeps them), and edges are amplified.

    The order of contrast and sharpening is honoured (`contrast_last`). Contrast and blur commute
    exactly; so do blur and sharpening but for the clip, which is taken once, after both.

    Args:
      images: float in [-1, 1], at least 3 pixels high and wide.
      blur: which images are blurred, with mirrored borders.
      sigma: deviation in pixels; 0 leaves an image as it is.
      sharp: which images are sharpened.
      alpha: share of the sharpened image.
      lightness: its brightness.
      contrast: factor around mid grey; 1 where there is none.
      contrast_last: True where contrast follows sharpening.

    Returns:
      Images of the same shape and type, in [-1, 1].
    """
    channels = images.shape[-1]
    dtype = images.dtype
    rows = rearrange(images, "b h w c -> b h (w c)")
    smooth = _filter_both_ways(rows, _gaussian_taps(sigma, blur, dtype), channels)
    one = jnp.ones((), dtype)
    box = _filter_both_ways(smooth, [one, one], channels)
    alpha = jnp.where(sharp, alpha, 0.0).astype(dtype)
    lightness, contrast = lightness.astype(dtype), contrast.astype(dtype)
    # Sharpening is linear on [0, 1]; on [-1, 1] its change of brightness becomes an offset.
    after = jnp.where(contrast_last, contrast, one)
    centre = contrast * (1 + alpha * (8 + lightness))
    offset = alpha * (lightness - 1) * after

    def spread(parameter: Array) -> Array:
        return parameter[:, None, None]

    result = spread(centre) * smooth - spread(contrast * alpha) * box + spread(offset)
    return jnp.clip(result, -spread(after), spread(after)).reshape(images.shape)
