"""Pooling windows, predictors and the MLP projector."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.models.hierarchy import (
    MlpProjector,
    Predictors,
    adaptive_average_pool,
    l2_normalize,
    pool_frames,
    pooling_windows,
)


def test_windows_of_26_frames_overlap() -> None:
    assert pooling_windows(26, 4) == ((0, 7), (6, 13), (13, 20), (19, 26))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t))))
def test_windows_cover_every_frame_in_order(case: tuple[int, int]) -> None:
    frames, bins = case
    windows = pooling_windows(frames, bins)
    assert set().union(*(range(a, b) for a, b in windows)) == set(range(frames))
    assert list(windows) == sorted(windows) and len(windows) == bins
    if frames % bins == 0:
        assert {b - a for a, b in windows} == {frames // bins}


def test_pooling_by_hand() -> None:
    x = jnp.arange(5.0)[None, :, None]  # windows 0…3 and 2…5
    np.testing.assert_allclose(adaptive_average_pool(x, 2)[0, :, 0], [1.0, 3.0])
    np.testing.assert_allclose(adaptive_average_pool(x, 1)[0, :, 0], [2.0])
    np.testing.assert_allclose(pool_frames(jnp.ones((1, 2, 3, 4)) * 2), np.full((1, 3, 4), 2.0))


def test_more_bins_than_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="bins=4 does not fit frames=3"):
        adaptive_average_pool(jnp.zeros((1, 3, 2)), 4)


def test_normalisation_is_finite_at_zero() -> None:
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    gradient = jax.grad(lambda v: jnp.sum(l2_normalize(v)[..., 0]))(x)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_predictors_exist_only_for_their_hierarchies() -> None:
    module = Predictors(dim=6, hierarchies=("frame", "word"), subwords=2)
    frames = jax.random.normal(jax.random.key(0), (2, 5, 3))
    variables = module.init(jax.random.key(1), frames)
    assert set(variables["params"]) == {"frame", "word"}
    vectors = module.apply(variables, frames)
    assert {name: v.shape for name, v in vectors.items()} == {"frame": (2, 5, 6), "word": (2, 1, 6)}
    for v in vectors.values():
        np.testing.assert_allclose(jnp.linalg.norm(v, axis=-1), 1.0, rtol=1e-5)


def test_predictors_normalise_in_float32() -> None:
    module = Predictors(dim=4, dtype=jnp.bfloat16, subwords=2)
    frames = jnp.ones((1, 4, 3), jnp.bfloat16)
    vectors = module.apply(module.init(jax.random.key(0), frames), frames)
    assert {v.dtype for v in vectors.values()} == {jnp.dtype(jnp.float32)}


def test_unknown_hierarchies_are_errors() -> None:
    with pytest.raises(ValueError, match="hierarchies="):
        Predictors(hierarchies=("frame", "line")).init(jax.random.key(0), jnp.zeros((1, 4, 3)))


def test_nothing_is_predicted_for_no_hierarchy() -> None:
    """Masked image modelling alone."""
    assert Predictors(hierarchies=()).init(jax.random.key(0), jnp.zeros((1, 4, 3))) == {}


def test_mlp_projector_sees_one_frame_at_a_time() -> None:
    module = MlpProjector(hidden=8, output=5, layers=3)
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    variables = module.init(jax.random.key(1), x)
    y = module.apply(variables, x)
    assert y.shape == (2, 6, 5) and len(variables["params"]) == 3
    np.testing.assert_allclose(module.apply(variables, x[:, 2:3]), y[:, 2:3], atol=1e-6)
    with pytest.raises(ValueError, match="layers=0"):
        MlpProjector(layers=0).init(jax.random.key(0), x)
