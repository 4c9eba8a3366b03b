"""Masks: exact counts, one contiguous block of full height, uniform draws."""

from __future__ import annotations

from functools import partial
from typing import Any

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
    if 0 < hidden < mask[0].size:
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


def assert_uniform(counts: np.ndarray, draws: np.ndarray | int, share: float) -> None:
    """Counts of `draws` lie within five standard errors of their share."""
    error = np.sqrt(share * (1 - share) * draws)
    assert (np.abs(counts - share * draws) < 5 * error).all()


@partial(jax.jit, static_argnames=("count", "grid", "mask_ratio", "block_ratio", "kind"))
def draw_each(key: jax.Array, *, count: int, **options: Any) -> jax.Array:
    """Masks of keys of their own, as training draws them."""
    draw = partial(masking.draw_mask, batch=1, **options)
    return jax.vmap(draw)(jax.random.split(key, count))[:, 0]


@pytest.mark.parametrize("grid", [(4, 25), (8, 32)])
def test_blocks_start_anywhere_and_patches_lie_anywhere_beside_them(grid: tuple[int, int]) -> None:
    count, (rows, columns) = 1500, grid
    width = masking.block_columns(columns, 0.15)
    draw = partial(draw_each, jax.random.key(0), count=count, grid=grid)
    # Where the mask hides as many patches as the block, the block is all that it hides.
    of_block = {"block_ratio": width / columns, "mask_ratio": width / columns}
    block = np.asarray(draw(**of_block))
    start = block[:, 0].argmax(axis=1)
    in_block = np.arange(columns) - start[:, None]
    expected = (in_block >= 0) & (in_block < width)
    np.testing.assert_array_equal(block, np.broadcast_to(expected[:, None], block.shape))
    starts = np.bincount(start, minlength=columns - width + 1)
    assert_uniform(starts, count, 1 / (columns - width + 1))
    np.testing.assert_array_equal(draw(kind="block", **of_block), block)

    # The same keys with the default ratios: the same blocks, and patches beside them.
    mask = np.asarray(draw())
    assert mask[block].all()
    beside = (masking.hidden_count(grid) - width * rows) / ((columns - width) * rows)
    for first, draws in enumerate(starts):
        hidden = mask[start == first].sum(axis=0)
        assert_uniform(hidden[~block[start == first][0]], draws, beside)


def test_patches_without_a_block_lie_anywhere() -> None:
    options = {"count": 1500, "grid": (4, 25), "mask_ratio": 0.7, "kind": "patch"}
    mask = np.asarray(draw_each(jax.random.key(1), **options))
    assert_uniform(mask.sum(axis=0), 1500, 0.7)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "patch", "mask_ratio": 0.004}, "mask_ratio=0.004 hides 0 of the 100 .*0.01 and"),
        ({"mask_ratio": 1.0}, r"mask_ratio=1.0 hides 100 .*and 0.99 \(the default is 0.7\)"),
        ({"kind": "block", "block_ratio": 0.01}, "block_ratio=0.01 hides 0 .*between 0.04 and"),
        ({"kind": "block", "block_ratio": 0.99}, "block_ratio=0.99 hides 100 .*and 0.96"),
    ],
)
def test_masks_that_hide_nothing_or_all_leave_no_count(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masking.visible_count((4, 25), **options)
