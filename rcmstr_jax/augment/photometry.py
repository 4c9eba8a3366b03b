"""Photometric operations of a view: contrast, blur, sharpening (RCMSTR section 1).

Images are floats in [-1, 1], channels last. The plain functions take one parameter per image
and the `random_*` functions draw it. `filter_stage` does all three in one pass over the pixels.
"""

from __future__ import annotations

import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from rcmstr_jax.augment.draws import Range, image_keys, scale_unit, uniform

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


def _gaussian_taps(sigma: Array, active: Array, radius: int, dtype: DTypeLike) -> list[Array]:
    """Centre and one-sided weights, (batch, 1, 1) each; a unit impulse where not active."""
    safe = jnp.where(active & (sigma > 0), sigma, 1.0).astype(dtype)
    taps = jnp.exp(-0.5 * (jnp.arange(radius + 1, dtype=dtype)[None] / safe[:, None]) ** 2)
    taps = taps / (2 * taps.sum(1, keepdims=True) - taps[:, :1])
    impulse = (jnp.arange(radius + 1) == 0).astype(dtype)
    taps = jnp.where((active & (sigma > 0))[:, None], taps, impulse[None])
    return [taps[:, i, None, None] for i in range(radius + 1)]


def _per_pixel(parameter: Array, like: Array) -> Array:
    return jnp.broadcast_to(parameter, like.shape[:1]).astype(like.dtype)


def adjust_contrast(
    images: Float[Array, "batch height width channels"], factor: Float[Array, " batch"] | float
) -> Float[Array, "batch height width channels"]:
    """Linear contrast around mid grey: pixel value 0 stays, the others move to `factor` times.

    Args:
      images: float in [-1, 1].
      factor: one number per image, or one for all.

    Returns:
      Images of the same shape and type.
    """
    return images * _per_pixel(jnp.asarray(factor), images)[:, None, None, None]


def gaussian_blur(
    images: Float[Array, "batch height width channels"],
    sigma: Float[Array, " batch"] | float,
    *,
    radius: int = BLUR_RADIUS,
) -> Float[Array, "batch height width channels"]:
    """Gaussian blur with mirrored borders; sigma 0 leaves an image as it is.

    Args:
      images: float, at least `radius + 1` pixels high and wide.
      sigma: standard deviation in pixels, one per image or one for all.
      radius: taps on either side of the centre.

    Returns:
      Images of the same shape and type.
    """
    channels = images.shape[-1]
    sigma = _per_pixel(jnp.asarray(sigma), images)
    taps = _gaussian_taps(sigma, sigma > 0, radius, images.dtype)
    rows = rearrange(images, "b h w c -> b h (w c)")
    return _filter_both_ways(rows, taps, channels).reshape(images.shape)


def sharpen(
    images: Float[Array, "batch height width channels"],
    alpha: Float[Array, " batch"] | float,
    lightness: Float[Array, " batch"] | float,
) -> Float[Array, "batch height width channels"]:
    """Blend with a sharpened image, as imgaug's `Sharpen` does on pixels scaled to [0, 1].

    The kernel is `(1 - alpha) * identity + alpha * S`, with S 8 + lightness in the centre and
    -1 at the eight neighbours: flat areas come out `1 - alpha + alpha * lightness` times as
    bright (lightness 1 keeps them), edges are amplified, and the result is clipped to [-1, 1].

    Args:
      images: float in [-1, 1], at least 3 pixels high and wide.
      alpha: share of the sharpened image, one per image or one for all.
      lightness: brightness of the sharpened image, one per image or one for all.

    Returns:
      Images of the same shape and type.
    """
    off = jnp.zeros(images.shape[:1], bool)
    unit = jnp.ones(images.shape[:1], images.dtype)
    return filter_stage(
        images,
        blur=off,
        sigma=unit,
        sharp=~off,
        alpha=_per_pixel(jnp.asarray(alpha), images),
        lightness=_per_pixel(jnp.asarray(lightness), images),
        contrast=unit,
        contrast_last=off,
    )


def filter_stage(
    images: Float[Array, "batch height width channels"],
    *,
    blur: Bool[Array, " batch"],
    sigma: Float[Array, " batch"],
    sharp: Bool[Array, " batch"],
    alpha: Float[Array, " batch"],
    lightness: Float[Array, " batch"],
    contrast: Float[Array, " batch"],
    contrast_last: Bool[Array, " batch"],
) -> Float[Array, "batch height width channels"]:
    """Blur, sharpening and contrast of every image, each on or off, in one pass.

    The order of contrast and sharpening is honoured (`contrast_last`). Contrast and blur commute
    exactly; so do blur and sharpening but for the clip, which is taken once, after both.

    Args:
      images: float in [-1, 1].
      blur: which images are blurred, with deviation `sigma`.
      sigma: in pixels.
      sharp: which images are sharpened, with `alpha` and `lightness` (see `sharpen`).
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
    smooth = _filter_both_ways(rows, _gaussian_taps(sigma, blur, BLUR_RADIUS, dtype), channels)
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


def random_contrast(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    *,
    indices: Int[Array, " batch"] | None = None,
    factor: Range = (0.5, 1.0),
) -> Float[Array, "batch height width channels"]:
    """`adjust_contrast` with a factor drawn per image from `factor`."""
    return adjust_contrast(images, uniform(image_keys(key, len(images), indices), factor))


def random_blur(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    *,
    indices: Int[Array, " batch"] | None = None,
    sigma: Range = (0.5, 1.5),
) -> Float[Array, "batch height width channels"]:
    """`gaussian_blur` with a deviation drawn per image from `sigma` (pixels)."""
    return gaussian_blur(images, uniform(image_keys(key, len(images), indices), sigma))


def random_sharpen(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    *,
    indices: Int[Array, " batch"] | None = None,
    alpha: Range = (0.0, 0.5),
    lightness: Range = (0.0, 0.5),
) -> Float[Array, "batch height width channels"]:
    """`sharpen` with `alpha` and `lightness` drawn per image."""
    draws = uniform(image_keys(key, len(images), indices), (0.0, 1.0), (2,))
    return sharpen(images, scale_unit(draws[:, 0], alpha), scale_unit(draws[:, 1], lightness))
