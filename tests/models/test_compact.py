"""The compact encoder: its masked forms against each other and against the dense pass."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.sites import Sites
from rcmstr_jax.ssl.masking import draw_mask, visible_count
from tests.models.masked_passes import (
    assert_equal,
    assert_nothing_hidden_is_dense,
    drawing,
    gradients,
)

GRID = (4, 6)
MODEL = CompactEncoder(width=16, blocks=(1, 1, 1), attention=1, heads=2)


class Encoder(NamedTuple):
    """A small encoder in float64 and what it is given; `dense` is the masked-dense pass."""

    variables: Any
    images: jax.Array
    cotangent: jax.Array
    dense: Any


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        images = jnp.asarray(random.normal(size=(4, 32, 4 * GRID[1], 3)))
        shapes = jax.eval_shape(MODEL.init, jax.random.key(0), images)
        variables = jax.tree_util.tree_map_with_path(drawing(random), shapes)
        cotangent = jnp.asarray(random.normal(size=(4, 1, GRID[1] + 1, MODEL.width)))
        return Encoder(variables, images, cotangent, gradients(MODEL, "masked_dense"))


def test_packed_equals_masked_dense(encoder: Encoder, x64: None) -> None:
    """In values, statistics and gradients; what lies under hidden patches changes none of them."""
    variables, images, cotangent, dense = encoder
    packed = gradients(MODEL, "packed", visible_count(GRID, 0.7))
    for seed, ratio in enumerate((0.7, 0.7, 0.9)):
        mask = draw_mask(jax.random.key(seed), 4, GRID, mask_ratio=ratio)
        hidden = np.asarray(mask).repeat(8, axis=1).repeat(4, axis=2)[..., None]
        results = []
        for form in (packed, dense):
            whole, cut = (
                form(variables, jnp.asarray(pixels), mask, cotangent)
                for pixels in (images, np.where(hidden, np.nan, images))
            )
            jax.tree.map(np.testing.assert_array_equal, whole, cut)
            assert not np.where(hidden, whole[0][1], 0).any()
            results.append(whole)
        assert_equal(*results)
        features, active, _ = results[0][1]
        assert not np.asarray(features)[:, 0][~np.asarray(active)].any(), (
            "empty frames hold nothing"
        )
    assert packed._cache_size() == dense._cache_size() == 1, "other masks, the same programs"


def test_a_mask_that_hides_nothing_gives_the_dense_pass(encoder: Encoder, x64: None) -> None:
    assert_nothing_hidden_is_dense(MODEL, encoder, GRID)


def test_an_image_that_is_hidden_whole_stays_empty_and_finite(encoder: Encoder, x64: None) -> None:
    variables, images, cotangent, masked = encoder
    mask = jnp.zeros((4, *GRID), bool).at[1].set(True)
    grads, (features, active, _) = masked(variables, images, mask, cotangent)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((grads, features)))
    assert not bool(active[1].any()) and not bool(features[1].any())
    assert bool(active[0].all()) and bool(features[0].any(-1).all())


@pytest.mark.parametrize(("rows", "shares"), [(2, [0.3, 0.3, 0.3]), (3, [0.375, 0.45, 0.6])])
def test_two_rows_keep_masked_maps_sparse(rows: int, shares: list[float]) -> None:
    """Slots of packed maps at 16, 8 and 4 rows, over all sites; 30 of 100 patches are visible."""
    sites = Sites.from_patches(jnp.zeros((1, 4, 25), bool), (32, 100), 30)
    found = []
    for columns in (2, 2, 1):
        sites = sites.through((rows, 3), (2, columns), ((rows - 1) // 2, 1))
        found.append(sites.capacity / (sites.size[0] * sites.size[1]))
    assert found == pytest.approx(shares)


def test_size_and_frames_of_the_default() -> None:
    images = jnp.zeros((2, 32, 100, 3))
    model = CompactEncoder()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    # Kernels, two numbers per channel and norm, attention and its MLP, added up by hand.
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 2_134_656
    mask = jnp.zeros((2, 4, 25), bool)
    options = {"form": "packed", "visible_count": 30}
    for masked in ({}, {"mask": mask}, {"mask": mask, "form": "dense"}, {"mask": mask, **options}):
        features, active = jax.eval_shape(partial(model.apply, **masked), shapes, images)
        # 26 frames, as many as the ResNet: an even number, so that images can be cut in two.
        assert features.shape == (2, 1, 26, 192)
        assert active is None if not masked else active.shape == (2, 26)


@pytest.mark.parametrize(
    ("model", "shape", "options", "message"),
    [
        (CompactEncoder(width=20), (1, 32, 100, 3), {}, "width: 20 is not a multiple of 8"),
        (CompactEncoder(width=24, heads=5), (1, 32, 100, 3), {}, "and of 5 heads"),
        (MODEL, (1, 64, 100, 3), {}, r"images: shape \(1, 64, 100, 3\); want \(batch, 32"),
        (MODEL, (1, 32, 98, 3), {}, "width divisible by 4"),
        (MODEL, (1, 32, 100, 3), {"form": "sparse"}, "form: 'sparse' is unknown"),
        (MODEL, (1, 32, 100, 3), {"mask": jnp.zeros((1, 4, 32), bool)}, "mask: a grid"),
    ],
)
def test_bad_arguments_are_named(
    model: CompactEncoder, shape: Any, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), **options))
