"""Vision transformer: positions, masks, sizes; values against the published code."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.interop.architectures import template
from rcmstr_jax.models.vit import VIT_SIZES, PixelDecoder, VisionTransformer, sinusoid_positions
from rcmstr_jax.verification.parity import report, vit


@pytest.fixture(scope="module")
def small() -> tuple[VisionTransformer, dict, jax.Array]:
    module = VisionTransformer(width=16, depth=2, heads=2)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 16, 3), minval=-1, maxval=1)
    return module, module.init(jax.random.key(1), images), images


def test_matches_the_published_code(golden_dir: Path, x64: None) -> None:
    rows = report.check_file(golden_dir / vit.FILE, vit.check)
    assert [row for row in rows if row.verdict != "PASS"] == []
    assert len(rows) == 7


def test_positions_by_hand() -> None:
    table = sinusoid_positions(3, 4)
    np.testing.assert_allclose(table[0], [0, 1, 0, 1])
    np.testing.assert_allclose(
        table[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-6
    )


def test_hidden_pixels_have_no_influence(small) -> None:  # type: ignore[no-untyped-def]
    module, variables, images = small
    mask = jnp.zeros((2, 2, 4), bool).at[:, 1, 2].set(True)
    changed = images.at[:, 4:8, 8:12].set(0.5)
    one, filled = module.apply(variables, images, mask=mask)
    other, _ = module.apply(variables, changed, mask=mask)
    np.testing.assert_array_equal(one, other)
    assert filled is None and one.shape == (2, 2, 4, 16)
    assert not np.allclose(one, module.apply(variables, images)[0])


def test_one_tree_serves_masked_and_plain_passes(small) -> None:  # type: ignore[no-untyped-def]
    module, variables, images = small
    mask = jnp.ones((2, 2, 4), bool)
    with_mask = jax.eval_shape(lambda k: module.init(k, images, mask=mask), jax.random.key(0))
    assert jax.tree.structure(with_mask) == jax.tree.structure(variables)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_published_sizes(size: str) -> None:
    width, depth, heads = VIT_SIZES[size]
    module = VisionTransformer(width=width, depth=depth, heads=heads)
    leaves = template(module, jnp.zeros((1, 32, 128, 3))).values()
    # A block: qkv 3, proj 1, MLP 8 squares; two norms 4, q and v 2, proj 1, MLP 5 vectors. Around
    # them: 48 pixels and a bias, the mask token, the final norm.
    expected = depth * (12 * width**2 + 12 * width) + 52 * width
    assert sum(np.prod(leaf.shape) for leaf in leaves) == expected


def test_bfloat16_keeps_its_type() -> None:
    module = VisionTransformer(width=8, depth=1, heads=1, dtype=jnp.bfloat16)
    images = jnp.zeros((1, 4, 8, 3))
    tokens, _ = module.apply(module.init(jax.random.key(0), images), images)
    assert tokens.dtype == jnp.bfloat16


def test_pixel_decoder_shapes() -> None:
    head = PixelDecoder(output=48)
    tokens = jnp.zeros((2, 8, 4, 16))
    assert head.apply(head.init(jax.random.key(0), tokens), tokens, None).shape == (2, 8, 4, 48)


@pytest.mark.parametrize(
    ("shape", "mask", "heads", "message"),
    [
        ((1, 30, 32, 3), None, 2, "not divisible by patch"),
        ((1, 32, 32, 3), (1, 8, 4), 2, "mask of shape"),
        ((1, 4, 8, 3), None, 3, "heads=3 does not divide width=16"),
    ],
)
def test_errors_name_the_argument(
    shape: tuple[int, ...], mask: tuple[int, ...] | None, heads: int, message: str
) -> None:
    module = VisionTransformer(width=16, depth=1, heads=heads)
    hidden = None if mask is None else jnp.zeros(mask, bool)
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), jnp.zeros(shape), mask=hidden)
