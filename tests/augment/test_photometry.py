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


def test_contrast_scales_around_mid_grey() -> None:
    images = jnp.array([-1.0, 0.0, 0.5, 1.0]).reshape(1, 2, 2, 1)
    out = photometry.adjust_contrast(images, 0.5)
    np.testing.assert_allclose(out.ravel(), [-0.5, 0.0, 0.25, 0.5])


def test_contrast_takes_one_factor_per_image() -> None:
    out = photometry.adjust_contrast(jnp.ones((2, 3, 3, 1)), jnp.array([0.5, 0.75]))
    np.testing.assert_allclose(out[:, 0, 0, 0], [0.5, 0.75])


def test_blur_of_an_impulse_is_the_kernel(x64: None) -> None:
    plane = np.zeros((9, 9))
    plane[4, 4] = 1.0
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    weights /= weights.sum()
    out = photometry.gaussian_blur(_batch(plane), 0.8)[0, :, :, 0]
    np.testing.assert_allclose(out[2:7, 2:7], np.outer(weights, weights), atol=1e-12)
    assert float(jnp.abs(out).sum()) == pytest.approx(1.0)


def test_blur_mirrors_at_the_border(x64: None) -> None:
    plane = np.random.default_rng(0).uniform(-1, 1, (5, 7))
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)
    weights /= weights.sum()
    expected = _kernel_filter(plane, np.outer(weights, weights))
    out = photometry.gaussian_blur(_batch(plane), 1.5)[0, :, :, 0]
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_blur_of_deviation_zero_changes_nothing() -> None:
    images = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    np.testing.assert_array_equal(photometry.gaussian_blur(images, 0.0), images)


def test_sharpen_on_flat_areas_changes_only_the_brightness() -> None:
    # Pixel 0.75 of [0, 1] becomes (1 - 0.5 + 0.5 * 0.4) * 0.75 = 0.525, that is 0.05 on [-1, 1].
    out = photometry.sharpen(jnp.full((1, 4, 5, 3), 0.5), 0.5, 0.4)
    np.testing.assert_allclose(out, 0.05, atol=1e-6)


def test_sharpen_of_a_known_patch_follows_the_kernel_of_imgaug() -> None:
    # On [0, 1]: centre 0.5 among neighbours 0.4. S gives (8 + 0.5) * 0.5 - 8 * 0.4 = 1.05;
    # blended 0.9 * 0.5 + 0.1 * 1.05 = 0.555, that is 0.11 on [-1, 1].
    plane = np.full((5, 5), 2 * 0.4 - 1.0, np.float32)
    plane[2, 2] = 0.0
    out = photometry.sharpen(_batch(plane), 0.1, 0.5)
    assert float(out[0, 2, 2, 0]) == pytest.approx(0.11, abs=1e-6)


def test_sharpen_equals_its_kernel_everywhere_and_clips(x64: None) -> None:
    plane = np.random.default_rng(1).uniform(0, 1, (6, 8))
    kernel = np.full((3, 3), -1.0)
    kernel[1, 1] = 8 + 0.3
    blended = 0.6 * plane + 0.4 * _kernel_filter(plane, kernel)
    assert (blended < 0).any() and (blended > 1).any()
    out = photometry.sharpen(_batch(2 * plane - 1), 0.4, 0.3)[0, :, :, 0]
    np.testing.assert_allclose(out, 2 * np.clip(blended, 0, 1) - 1, atol=1e-12)


@pytest.mark.parametrize("contrast_last", [False, True])
def test_stage_equals_its_operations_one_after_another(contrast_last: bool, x64: None) -> None:
    images = jax.random.uniform(jax.random.key(3), (4, 8, 9, 3), jnp.float64, -1, 1)
    blur = jnp.array([True, False, True, False])
    sharp = jnp.array([True, True, False, False])
    sigma = jnp.array([0.5, 0.8, 1.1, 1.4])
    alpha, lightness = jnp.array([0.1, 0.5, 0.3, 0.2]), jnp.array([0.0, 0.5, 0.2, 0.4])
    contrast = jnp.array([0.5, 0.9, 0.7, 1.0])
    out = photometry.filter_stage(
        images,
        blur=blur,
        sigma=sigma,
        sharp=sharp,
        alpha=alpha,
        lightness=lightness,
        contrast=contrast,
        contrast_last=jnp.full(4, contrast_last),
    )
    expected = photometry.gaussian_blur(images, jnp.where(blur, sigma, 0.0))
    sharpened = photometry.sharpen(
        expected if contrast_last else photometry.adjust_contrast(expected, contrast),
        alpha,
        lightness,
    )
    if contrast_last:
        plain, sharpened = expected, photometry.adjust_contrast(sharpened, contrast)
        plain = photometry.adjust_contrast(plain, contrast)
    else:
        plain = photometry.adjust_contrast(expected, contrast)
    expected = jnp.where(sharp[:, None, None, None], sharpened, plain)
    np.testing.assert_allclose(out, expected, atol=1e-12)
