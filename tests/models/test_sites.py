"""Active sites: the anchor rule, tight static bounds, tables that agree with dense layers."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from rcmstr_jax.models import packed
from rcmstr_jax.models.forms import choose_form
from rcmstr_jax.models.layers import keep_active, max_pool
from rcmstr_jax.models.sites import Sites, Window, most_active_sites, output_size

WINDOWS: list[Window] = [
    ((3, 3), (1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0)),
    ((2, 2), (2, 1), (0, 1)),
    ((2, 2), (1, 1), (0, 0)),
    ((3, 3), (2, 2), (1, 1)),
    ((5, 3), (2, 1), (2, 1)),
]


def anchored(active: np.ndarray, window: Window) -> np.ndarray:
    """The rule of the method, site by site."""
    kernel, strides, padding = window
    size = active.shape[1:]
    out = output_size(size, kernel, strides, padding)
    if out == size and strides == (1, 1):
        return active
    result = np.zeros((len(active), *out), bool)
    for row in range(out[0]):
        first = row * strides[0] - padding[0]
        rows = slice(max(first, 0), max(first + kernel[0], 0))
        for column in range(out[1]):
            anchor = min(column * strides[1], size[1] - 1)
            result[:, row, column] = active[:, rows, anchor].any(axis=1)
    return result


def encoder_sites(sites: Sites) -> list[Sites]:
    """Sites at every resolution of the 29-layer ResNet."""
    chain = [sites]
    for window in (WINDOWS[1], WINDOWS[1], WINDOWS[2], WINDOWS[2], WINDOWS[3]):
        chain.append(chain[-1].through(*window))
    return chain


def test_sites_of_the_encoder_by_hand() -> None:
    hidden = np.ones((1, 4, 25), bool)
    hidden[0, 1, 24] = hidden[0, 2, 3] = False
    maps = [np.asarray(sites.active[0]) for sites in encoder_sites(
        Sites.from_patches(jnp.asarray(hidden), (32, 100))
    )]  # fmt: skip
    assert [m.shape for m in maps] == [(32, 100), (16, 50), (8, 25), (4, 26), (2, 27), (1, 26)]
    assert [int(m.sum()) for m in maps] == [64, 16, 4, 3, 4, 3]
    assert list(zip(*np.nonzero(maps[3]), strict=True)) == [(1, 24), (1, 25), (2, 3)]
    assert list(zip(*np.nonzero(maps[4]), strict=True)) == [(0, 24), (0, 25), (0, 26), (1, 3)]
    assert list(np.nonzero(maps[5][0])[0]) == [3, 24, 25]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), windows=st.lists(st.sampled_from(WINDOWS), max_size=3))
def test_active_sites_follow_the_anchor_rule(seed: int, windows: list[Window]) -> None:
    random = np.random.default_rng(seed)
    sites = Sites.from_patches(jnp.asarray(random.random((2, 4, 6)) < 0.6), (16, 12))
    active = np.asarray(sites.active)
    for window in windows:
        active, sites = anchored(active, window), sites.through(*window)
        np.testing.assert_array_equal(sites.active, active)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), visible=st.integers(1, 100))
def test_no_mask_exceeds_the_bound(seed: int, visible: int) -> None:
    random = np.random.default_rng(seed)
    shown = random.permuted(np.tile(np.arange(100) < visible, (8, 1)), axis=1).reshape(8, 4, 25)
    for sites in encoder_sites(Sites.from_patches(jnp.asarray(~shown), (32, 100), visible)):
        active = np.asarray(shown)[:, :, list(sites.column_of)]
        counts = sum(active[:, list(rows)].any(axis=1).sum(axis=1) for rows in sites.rows_of)
        assert counts.max() <= sites.capacity


def test_bound_is_attained() -> None:
    """Every mask of a small grid tried: the bound is the largest count, not just above it."""
    rows_of, column_of = ((0, 1), (1, 2), (2,)), (0, 1, 1, 2)
    masks = (np.arange(2**9)[:, None] >> np.arange(9) & 1).reshape(-1, 3, 3).astype(bool)
    counts = sum(masks[:, list(rows)][:, :, list(column_of)].any(axis=1).sum(1) for rows in rows_of)
    for visible in range(1, 10):
        largest = counts[masks.sum((1, 2)) == visible].max()
        assert most_active_sites(rows_of, column_of, (3, 3), visible) == largest


def test_capacities_at_the_published_ratio() -> None:
    sites = encoder_sites(Sites.from_patches(jnp.zeros((1, 4, 25), bool), (32, 100), 30))
    assert [s.capacity for s in sites] == [960, 240, 60, 34, 34, 26]


@pytest.mark.parametrize("before", [None, WINDOWS[2]], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_packed_layers_equal_dense_ones(window: Window, before: Window | None, x64: None) -> None:
    random = np.random.default_rng(0)
    # At most nine visible patches of twelve, mostly fewer: slots stay unused.
    hidden = random.random((2, 3, 4)) < 0.6
    hidden[:, 0, :3] = True
    size = output_size((6, 8), *before) if before else (6, 8)
    shapes = [(2, *size, 3), (*window[0], 3, 4)]
    shapes += [(2, *output_size(size, *window), features) for features in (4, 3)]
    x, kernel, *cotangent = (jnp.asarray(random.normal(size=shape)) for shape in shapes)

    def layers(visible: int | None, x: Any, kernel: Any) -> Any:
        """A convolution and a pool, and whether anything stands in an unused slot."""
        sites = Sites.from_patches(jnp.asarray(hidden), (6, 8), visible)
        sites = sites.through(*before) if before else sites
        after = sites.through(*window)
        if sites.packed:
            x = packed.pack(x, sites)
            y, z = packed.convolve(x, kernel, sites, window), packed.max_pool(x, sites, window)
            unused = ~after.valid[..., None]
            dirty = jnp.any(unused & (y != 0)) | jnp.any(unused & (z != 0))
            return (packed.unpack(y, after), packed.unpack(z, after)), dirty
        x = keep_active(x, sites)
        pads, numbers = tuple((p, p) for p in window[2]), ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, window[1], pads, dimension_numbers=numbers)
        z = max_pool(x, sites, window=window[0], strides=window[1], padding=window[2])
        return (keep_active(y, after), z), jnp.zeros((), bool)

    @partial(jax.jit, static_argnums=0)
    def run(visible: int | None) -> Any:
        values, pullback, dirty = jax.vjp(partial(layers, visible), x, kernel, has_aux=True)
        return values, pullback(tuple(cotangent)), dirty

    ours, theirs = run(9), run(None)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), ours[:2], theirs[:2])
    assert not ours[2]


def test_impossible_sites_are_refused() -> None:
    hidden = jnp.zeros((1, 4, 25), bool)
    with pytest.raises(ValueError, match="mask: a grid of 4 x 25 patches does not divide a map"):
        Sites.from_patches(hidden, (32, 128))
    with pytest.raises(ValueError, match="visible_count: 0 is not between 1 and the 100 patches"):
        Sites.from_patches(hidden, (32, 100), 0)
    with pytest.raises(ValueError, match="visible_count: None; packed maps need"):
        _ = Sites.from_patches(hidden, (32, 100)).index


def test_sites_pass_through_transformations() -> None:
    """As an argument of jit they arrive without what was computed outside."""
    sites = Sites.from_patches(jnp.zeros((1, 2, 2), bool), (4, 4), 3)
    outside = sites.index
    inside = jax.jit(lambda s: s.index)(sites)
    np.testing.assert_array_equal(outside, inside)


def test_form_is_chosen_from_the_table() -> None:
    table = {"cpu": {"float32": {64: 0.8, 512: 0.5}}}
    assert choose_form("cpu", "float32", 64, 0.7, table) == "packed"
    assert choose_form("cpu", "float32", 512, 0.7, table) == "masked_dense"
    assert choose_form("cpu", "float32", 1024, 0.3, table) == "packed"
    assert choose_form("cpu", "bfloat16", 64, 0.3, table) == "masked_dense"
    assert choose_form("tpu", "float32", 64, 0.3, table) == "masked_dense"
