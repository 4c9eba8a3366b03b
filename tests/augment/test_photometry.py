"""Contrast, blur and sharpening against values computed by hand and with SciPy-free NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.augment import photometry


def _kernel_filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate (height, width) with a kernel, borders mirrored without repeating the edge."""
    radius = kernel.shape[0] // 2
    padded = np.pad(image, radius, mode="reflect")
    height, width = image.shape
    return sum(
        kernel[i, j] * padded[i : i + height, j : j + width]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def _batch(plane: np.ndarray) -> jax.Array:
    return jnp.asarray(plane)[None, :, :, None]


def _filter(
    images: jax.Array,
    *,
    sigma: object = 0.0,
    alpha: object = 0.0,
    lightness: object = 1.0,
    contrast: object = 1.0,
    contrast_last: bool = False,
) -> jax.Array:
    """`filter_stage` with one number per image or for all; 0 for sigma and alpha switches off."""

    def each(value: object) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, images.dtype), images.shape[:1])

    return photometry.filter_stage(
        images,
        blur=each(sigma) > 0,
        sigma=each(sigma),
        sharp=each(alpha) > 0,
        alpha=each(alpha),
        lightness=each(lightness),
        contrast=each(contrast),
        contrast_last=jnp.full(len(images), contrast_last),
    )


def _gaussian(sigma: float) -> np.ndarray:
    weights = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    weights /= weights.sum()
    return np.outer(weights, weights)


def _sharpened(plane: np.ndarray, alpha: float, lightness: float) -> np.ndarray:
    """The plane in [0, 1], neither in range nor clipped."""
    kernel = np.full((3, 3), -1.0)
    kernel[1, 1] = 8 + lightness
    return (1 - alpha) * plane + alpha * _kernel_filter(plane, kernel)


def test_contrast_scales_around_mid_grey() -> None:
    images = jnp.broadcast_to(jnp.array([-1.0, 0.0, 0.5, 1.0])[None, None, :, None], (1, 3, 4, 1))
    out = _filter(images, contrast=0.5)
    np.testing.assert_allclose(out[0, 1].ravel(), [-0.5, 0.0, 0.25, 0.5])


def test_contrast_takes_one_factor_per_image() -> None:
    out = _filter(jnp.ones((2, 3, 3, 1)), contrast=jnp.array([0.5, 0.75]))
    np.testing.assert_allclose(out[:, 0, 0, 0], [0.5, 0.75])


def test_blur_of_an_impulse_is_the_kernel(x64: None) -> None:
    plane = np.zeros((9, 9))
    plane[4, 4] = 1.0
    out = _filter(_batch(plane), sigma=0.8)[0, :, :, 0]
    np.testing.assert_allclose(out[2:7, 2:7], _gaussian(0.8), atol=1e-12)
    assert float(jnp.abs(out).sum()) == pytest.approx(1.0)


def test_blur_mirrors_at_the_border(x64: None) -> None:
    plane = np.random.default_rng(0).uniform(-1, 1, (5, 7))
    out = _filter(_batch(plane), sigma=1.5)[0, :, :, 0]
    np.testing.assert_allclose(out, _kernel_filter(plane, _gaussian(1.5)), atol=1e-12)


def test_blur_of_deviation_zero_changes_nothing() -> None:
    images = jax.random.uniform(jax.random.key(0), (2, 5, 6, 3), minval=-1, maxval=1)
    np.testing.assert_array_equal(_filter(images), images)
    unit, on = jnp.ones(2), jnp.ones(2, bool)
    out = photometry.filter_stage(
        images,
        blur=on,
        sigma=0 * unit,
        sharp=~on,
        alpha=unit,
        lightness=unit,
        contrast=unit,
        contrast_last=~on,
    )
    np.testing.assert_array_equal(out, images)


def test_sharpen_on_flat_areas_changes_only_the_brightness() -> None:
    # Pixel 0.75 of [0, 1] becomes (1 - 0.5 + 0.5 * 0.4) * 0.75 = 0.525, that is 0.05 on [-1, 1].
    out = _filter(jnp.full((1, 4, 5, 3), 0.5), alpha=0.5, lightness=0.4)
    np.testing.assert_allclose(out, 0.05, atol=1e-6)


def test_sharpen_of_a_known_patch_follows_the_kernel_of_imgaug() -> None:
    # On [0, 1]: centre 0.5 among neighbours 0.4. S gives (8 + 0.5) * 0.5 - 8 * 0.4 = 1.05;
    # blended 0.9 * 0.5 + 0.1 * 1.05 = 0.555, that is 0.11 on [-1, 1].
    plane = np.full((5, 5), 2 * 0.4 - 1.0, np.float32)
    plane[2, 2] = 0.0
    out = _filter(_batch(plane), alpha=0.1, lightness=0.5)
    assert float(out[0, 2, 2, 0]) == pytest.approx(0.11, abs=1e-6)


def test_sharpen_equals_its_kernel_everywhere_and_clips(x64: None) -> None:
    plane = np.random.default_rng(1).uniform(0, 1, (6, 8))
    blended = _sharpened(plane, 0.4, 0.3)
    assert (blended < 0).any() and (blended > 1).any()
    out = _filter(_batch(2 * plane - 1), alpha=0.4, lightness=0.3)[0, :, :, 0]
    np.testing.assert_allclose(out, 2 * np.clip(blended, 0, 1) - 1, atol=1e-12)


@pytest.mark.parametrize("contrast_last", [False, True])
def test_stage_equals_its_operations_one_after_another(contrast_last: bool, x64: None) -> None:
    images = np.random.default_rng(3).uniform(-1, 1, (4, 8, 9, 3))
    sigma, alpha = [0.5, 0.0, 1.1, 0.0], [0.1, 0.5, 0.0, 0.0]
    lightness, contrast = [0.0, 0.5, 0.2, 0.4], [0.5, 0.9, 0.7, 1.0]
    out = _filter(
        jnp.asarray(images),
        sigma=sigma,
        alpha=alpha,
        lightness=lightness,
        contrast=contrast,
        contrast_last=contrast_last,
    )
    for i, channel in np.ndindex(4, 3):
        plane = images[i, :, :, channel]
        plane = _kernel_filter(plane, _gaussian(sigma[i])) if sigma[i] else plane
        plane = plane if contrast_last else plane * contrast[i]
        if alpha[i]:
            plane = 2 * np.clip(_sharpened((plane + 1) / 2, alpha[i], lightness[i]), 0, 1) - 1
        plane = plane * contrast[i] if contrast_last else plane
        np.testing.assert_allclose(out[i, :, :, channel], plane, atol=1e-12)
