"""Masks: exact counts, one contiguous block of full height, uniform draws."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.ssl import masking


def contains_block(mask: np.ndarray, width: int) -> bool:
    """Whether `width` neighbouring columns are hidden over the full height."""
    full = mask.all(axis=0)
    return any(full[i : i + width].all() for i in range(len(full) - width + 1))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    grid=st.sampled_from([(4, 25), (8, 32), (8, 25)]),
    mask_ratio=st.floats(0.2, 1.0),
    block_ratio=st.floats(0.0, 0.19),
    kind=st.sampled_from(masking.KINDS),
)
def test_every_image_hides_the_exact_number(
    seed: int, grid: tuple[int, int], mask_ratio: float, block_ratio: float, kind: str
) -> None:
    options = {"mask_ratio": mask_ratio, "block_ratio": block_ratio, "kind": kind}
    mask = np.asarray(masking.draw_mask(jax.random.key(seed), 3, grid, **options))
    assert mask.shape == (3, *grid) and mask.dtype == bool
    hidden = masking.hidden_count(grid, mask_ratio, block_ratio, kind)
    assert (mask.sum(axis=(1, 2)) == hidden).all()
    assert masking.visible_count(grid, mask_ratio, block_ratio, kind) == mask[0].size - hidden
    width = masking.block_columns(grid[1], block_ratio)
    if kind == "block":
        assert hidden == width * grid[0]
    else:
        assert hidden == round(mask_ratio * grid[0] * grid[1])
    if kind != "patch":
        assert all(contains_block(image, width) for image in mask)


def test_defaults_match_the_figure() -> None:
    assert masking.block_columns(25, 0.15) == 4
    assert masking.block_columns(32, 0.15) == 5
    assert masking.hidden_count((4, 25)) == 70
    assert masking.hidden_count((8, 32)) == 179


def test_draws_are_uniform() -> None:
    count, grid = 6000, (4, 6)
    options = {"mask_ratio": 0.5, "block_ratio": 1 / 3}

    @partial(jax.jit, static_argnums=1)
    def draw(key: jax.Array, kind: str) -> jax.Array:
        return masking.draw_mask(key, count, grid, kind=kind, **options)

    # Four standard errors of a share p over n draws.
    def margin(p: float) -> float:
        return 4 * (p * (1 - p) / count) ** 0.5

    patch = np.asarray(draw(jax.random.key(0), "patch"))
    assert np.abs(patch.mean(axis=0) - 0.5).max() < margin(0.5)
    block = np.asarray(draw(jax.random.key(1), "block"))
    start = np.argmax(block[:, 0], axis=1)
    shares = np.bincount(start, minlength=5) / count
    assert shares.shape == (5,)
    assert np.abs(shares - 0.2).max() < margin(0.2)


def test_key_decides() -> None:
    first, again, other = (
        np.asarray(masking.draw_mask(jax.random.key(seed), 8, (4, 25))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "stripes"}, "kind='stripes' is unknown; use one of patch_block"),
        ({"mask_ratio": 1.2}, "mask_ratio=1.2 is not between 0 and 1"),
        ({"block_ratio": -0.5}, "block_ratio=-0.5 is not between 0 and 1"),
        ({"mask_ratio": 0.1, "block_ratio": 0.4}, "block_ratio=0.4 hides 40 of 100 .*lower block"),
    ],
)
def test_impossible_masks_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masking.draw_mask(jax.random.key(0), 1, (4, 25), **options)
