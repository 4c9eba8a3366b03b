"""Rearrangement: hand-made blocks, and alignment as its inverse."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.ssl.rearrange import align_frames, draw_permutation, rearrange_images


def test_hand_made_blocks():
    # Two images of two blocks, each block a constant: 0 1 | 2 3.
    images = jnp.repeat(jnp.arange(4.0).reshape(2, 1, 2, 1), 3, axis=2)
    images = jnp.broadcast_to(images, (2, 2, 6, 3))
    moved = rearrange_images(images, jnp.array([[3, 2, 0, 1]]), blocks=2)
    np.testing.assert_array_equal(moved[:, 0, ::3, 0], [[3, 2], [0, 1]])


@partial(jax.jit, static_argnames="blocks")
def there_and_back(key, frames, blocks):
    """The frames of four groups, rearranged and aligned again."""
    group = frames.shape[0] // 4
    permutation = draw_permutation(key, 4, group_size=group, blocks=blocks)
    moved = rearrange_images(frames[:, None], permutation, blocks=blocks)[:, 0]
    return align_frames(moved, permutation, blocks=blocks)


# Shapes are few, because each is compiled; numbers are many.
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), sizes=st.sampled_from([(1, 3), (2, 2), (3, 1), (3, 2)]))
def test_alignment_undoes_rearrangement(seed, sizes):
    group, blocks = sizes
    frames = np.random.default_rng(seed).normal(size=(4 * group, 6 * blocks, 5))
    frames = frames.astype(np.float32)
    back = there_and_back(jax.random.key(seed), frames, blocks)
    np.testing.assert_array_equal(back, frames)


def test_permutations_are_uniform_and_per_group():
    drawn = np.asarray(draw_permutation(jax.random.key(0), 4800))
    assert (np.sort(drawn, axis=1) == np.arange(4)).all()
    _, counts = np.unique(drawn @ [64, 16, 4, 1], return_counts=True)
    assert len(counts) == 24
    # Expectation 200 per order, standard deviation 13.8.
    assert np.abs(counts - 200).max() < 70


def test_indivisible_sizes_are_named():
    permutation = draw_permutation(jax.random.key(0), 1)
    with pytest.raises(ValueError, match="batch of 3 .* rearrange.group"):
        rearrange_images(jnp.ones((3, 2, 4, 3)), permutation)
    with pytest.raises(ValueError, match="width 5 .* rearrange.blocks"):
        rearrange_images(jnp.ones((2, 2, 5, 3)), permutation)
    with pytest.raises(ValueError, match="frame count 25"):
        align_frames(jnp.ones((2, 25, 3)), permutation)
