"""Maps and the resampling against hand-made cases and an independent NumPy version."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.augment import geometry


def test_crop_of_half_the_rows_is_resized_back() -> None:
    # Rows 0 … 3; the top half goes. Output centres fall on source rows 1.75, 2.25, 2.75, 3.25:
    # the last lies beyond the outermost centre and repeats it.
    images = jnp.broadcast_to(jnp.arange(4.0)[None, :, None, None], (1, 4, 3, 1))
    homography = geometry.crop_map(jnp.array([0.5]), jnp.array([0.0]), axis="rows")
    u, v = geometry.apply_homography(homography, *geometry.pixel_centres(4, 3, jnp.float32))
    out = geometry.resample(images, u, v)
    np.testing.assert_allclose(out[0, :, 1, 0], [1.75, 2.25, 2.75, 3.0], atol=1e-6)


def test_crop_of_columns_keeps_the_rows() -> None:
    images = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (1, 3, 8, 1))
    homography = geometry.crop_map(jnp.array([0.25]), jnp.array([0.25]), axis="columns")
    u, v = geometry.apply_homography(homography, *geometry.pixel_centres(3, 8, jnp.float32))
    out = geometry.resample(images, u, v)
    # Columns 2 … 5 are kept: column i shows 2 + (i + 0.5) / 2 - 0.5.
    np.testing.assert_allclose(out[0, 2, :, 0], 1.75 + 0.5 * np.arange(8), atol=1e-6)


def test_crop_names_an_unknown_axis() -> None:
    with pytest.raises(ValueError, match="axis='depth'.*'rows' or 'columns'"):
        geometry.crop_map(jnp.zeros(1), jnp.zeros(1), axis="depth")


def test_quad_map_meets_its_corners(x64: None) -> None:
    corners = jnp.array([[[0.1, 0.05], [0.95, 0.02], [0.9, 0.97], [0.03, 0.9]]])
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    homography = geometry.quad_map(corners)
    u, v = geometry.apply_homography(
        homography, jnp.asarray(square[None, :, None, 0]), jnp.asarray(square[None, :, None, 1])
    )
    np.testing.assert_allclose(np.stack([u, v], -1)[0, :, 0], corners[0], atol=1e-12)


def test_piecewise_affine_interpolates_linearly_on_both_triangles(x64: None) -> None:
    offsets = jnp.zeros((1, 4, 4, 2)).at[0, 1, 2].set(jnp.array([0.3, -0.06]))
    # At the point itself, halfway to a neighbour, halfway along the cut diagonal (a neighbour
    # lies at its end), and halfway along the other diagonal (the point is a corner of neither
    # triangle's edge there, so the middle belongs to the cut between two other points).
    third = 1 / 3
    points = np.array(
        [
            [2 * third, third],
            [2.5 * third, third],
            [2.5 * third, 1.5 * third],
            [2.5 * third, 0.5 * third],
            [0.0, 1.0],
        ]
    )
    u, v = jnp.asarray(points[None, :, None, 0]), jnp.asarray(points[None, :, None, 1])
    moved_u, moved_v = geometry.apply_piecewise_affine(offsets, u, v)
    share = np.array([1.0, 0.5, 0.5, 0.0, 0.0])
    np.testing.assert_allclose((moved_u - u)[0, :, 0], 0.3 * share, atol=1e-12)
    np.testing.assert_allclose((moved_v - v)[0, :, 0], -0.06 * share, atol=1e-12)


def test_piecewise_affine_of_an_affine_field_is_affine(x64: None) -> None:
    knots = np.linspace(0, 1, 4)
    rows, columns = np.meshgrid(knots, knots, indexing="ij")
    offsets = np.stack([0.1 + 0.2 * columns - 0.3 * rows, 0.05 * columns + 0.4 * rows], -1)
    u, v = np.random.default_rng(0).uniform(0, 1, (2, 1, 6, 5))
    moved = geometry.apply_piecewise_affine(
        jnp.asarray(offsets[None]), jnp.asarray(u), jnp.asarray(v)
    )
    np.testing.assert_allclose(moved[0], u + 0.1 + 0.2 * u - 0.3 * v, atol=1e-12)
    np.testing.assert_allclose(moved[1], v + 0.05 * u + 0.4 * v, atol=1e-12)


def test_resample_is_bilinear_and_edge_padded(x64: None) -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2, 6, 9, 3))
    u, v = generator.uniform(-0.2, 1.2, (2, 2, 5, 7))
    out = jax.jit(geometry.resample)(jnp.asarray(images), jnp.asarray(u), jnp.asarray(v))
    for n, row, column in np.ndindex(u.shape):
        x, y = u[n, row, column] * 9 - 0.5, v[n, row, column] * 6 - 0.5
        expected = np.zeros(3)
        for i in (int(np.floor(y)), int(np.floor(y)) + 1):
            for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                pixel = images[n, min(max(i, 0), 5), min(max(j, 0), 8)]
                expected += max(0.0, 1 - abs(x - j)) * max(0.0, 1 - abs(y - i)) * pixel
        np.testing.assert_allclose(out[n, row, column], expected, atol=1e-12)


def test_jitters_stay_within_their_bounds() -> None:
    keys = jax.random.split(jax.random.key(0), 200)
    offsets = jax.jit(geometry.draw_piecewise_affine, static_argnums=1)(keys, (0.02, 0.03))
    assert offsets.shape == (200, 4, 4, 2)
    assert float(jnp.abs(offsets).max()) <= 2.5 * 0.03
    assert 0.02 < float(offsets.std()) < 0.03
    square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    u, v = geometry.apply_homography(
        jax.jit(geometry.draw_perspective, static_argnums=1)(keys, (0.01, 0.02)),
        square[None, :, :1],
        square[None, :, 1:],
    )
    inset = jnp.abs(jnp.concatenate([u, v], -1) - square[None])
    assert float(inset.max()) <= 2.5 * 0.02 + 1e-6
    assert float(jnp.minimum(u, v).min()) >= -1e-6 and float(jnp.maximum(u, v).max()) <= 1 + 1e-6
