"""TPS rectifier: the identity it starts near, sampling by hand, the published figures."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.tps import TpsRectifier, fiducial_targets, sample_bilinear, spline_grid
from rcmstr_jax.verification.parity import report, tps


def test_matches_the_published_code(golden_dir: Path, x64: None) -> None:
    rows = report.check_file(golden_dir / tps.FILE, tps.check)
    assert [row for row in rows if row.verdict != "PASS"] == []
    assert {row.name for row in rows} > {"eval/fiducial_points", "eval/grid", "eval/rectified"}


def test_points_in_place_give_the_regular_grid() -> None:
    size = (4, 6)
    points = jnp.asarray(fiducial_targets(20), jnp.float32)[None]
    grid = np.asarray(spline_grid(points, size)).reshape(4, 6, 2)
    np.testing.assert_allclose(grid[0, :, 0], (np.arange(-6, 6, 2) + 1) / 6, atol=1e-5)
    np.testing.assert_allclose(grid[:, 0, 1], (np.arange(-4, 4, 2) + 1) / 4, atol=1e-5)


def test_moved_points_move_the_grid_alike() -> None:
    moved = jnp.array([[[0.25, -0.5]]])
    points = jnp.asarray(fiducial_targets(8), jnp.float32)[None] + moved
    plain = spline_grid(points - moved, (4, 6))
    np.testing.assert_allclose(spline_grid(points, (4, 6)), plain + moved, atol=1e-5)


def test_sampling_by_hand() -> None:
    image = jnp.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])[None, :, :, None]
    grid = jnp.array([[[-1.0, -1.0], [0.5, 0.0], [3.0, 1.0], [1.0, -9.0]]])
    np.testing.assert_allclose(sample_bilinear(image, grid)[0, :, 0], [0.0, 6.5, 12.0, 2.0])


def test_untrained_rectifier_is_nearly_the_identity() -> None:
    x = jnp.linspace(-1, 1, 100)[None, None, :, None]
    images = jnp.broadcast_to(jnp.sin(3 * x), (2, 32, 100, 3))
    module = TpsRectifier(channels=(2, 2), hidden=4)
    variables = module.init(jax.random.key(0), images)
    np.testing.assert_allclose(module.apply(variables, images), images, atol=0.04)


def test_statistics_never_move() -> None:
    module = TpsRectifier(channels=(2, 2), hidden=4, size=(8, 12))
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    variables = module.init(jax.random.key(1), images)
    out, changed = module.apply(variables, images, mutable=["batch_stats"])
    assert out.shape == (2, 8, 12, 3)
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("fiducials", [2, 7])
def test_odd_or_too_few_points_are_an_error(fiducials: int) -> None:
    with pytest.raises(ValueError, match=f"fiducials={fiducials}"):
        fiducial_targets(fiducials)
