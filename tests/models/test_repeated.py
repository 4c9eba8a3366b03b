"""Blocks in a loop against blocks written out: values, gradients, statistics, and what is kept."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.models import vit
from rcmstr_jax.models.fused_attention import fits, fused_attention
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.vit import VisionTransformer, mix_tokens
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.target import compiling_for

ENCODERS = {
    "vit": (VisionTransformer(width=8, depth=3, heads=2), None),
    "cnn": (ResNet(width=16, blocks=(0, 0, 3, 0)), (8, 4)),
}


def outcome(encoder: nn.Module, patch: Any, weights: Any, images: Any, platform: str) -> Any:
    """Features, moved statistics and the gradient of a pass in training, masked where it may be.

    The ViT drops branches, each block its own.
    """
    mask, options = None, {}
    if patch is not None:
        mask = jnp.arange(32 // patch[0] * 2).reshape(1, -1, 2).repeat(len(images), 0) % 3 == 1
    else:
        options["branches"] = jnp.asarray(np.arange(12).reshape(2, 3, 2) % 5 / 2, jnp.float32)

    def loss(params: Any) -> Any:
        (features, _), moved = encoder.apply(
            {**weights, "params": params},
            images,
            mask=mask,
            train=True,
            mutable=["batch_stats"],
            **options,
        )
        return jnp.sum(jnp.sin(features)), (features, moved)

    def both(params: Any) -> Any:  # a new function: what is traced follows the platform
        return jax.grad(loss, has_aux=True)(params)

    with compiling_for(platform):
        return jax.jit(both, compiler_options=QUICKLY)(weights["params"])


@pytest.mark.parametrize("name", ENCODERS)
def test_a_loop_is_equal_to_the_blocks_written_out(name: str, x64: None) -> None:
    encoder, patch = ENCODERS[name]
    images = jax.random.uniform(jax.random.key(1), (2, 32, 8, 3), jnp.float64, -1, 1)
    weights = encoder.init(jax.random.key(0), images)
    weights = jax.tree.map(lambda x: x.astype(jnp.float64), weights)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images))
    with compiling_for("gpu"):
        again = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images))
    assert jax.tree.structure(shapes) == jax.tree.structure(again)
    written_out, loop = (outcome(encoder, patch, weights, images, p) for p in ("cpu", "gpu"))
    assert_equal(written_out, loop)


def assert_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), one, other)


def test_a_loop_keeps_the_marked_products_alone() -> None:
    """Residuals of a block: its input, queries with keys and values, mixture, middle, hidden."""
    encoder = VisionTransformer(width=64, depth=4, heads=1)
    images = jnp.zeros((2, 32, 64, 3))  # 128 tokens
    weights = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images))

    def kept(platform: str) -> int:
        def backward(weights: Any) -> Any:
            return jax.vjp(lambda w: encoder.apply(w, images)[0], weights)[1]

        with compiling_for(platform):
            arrays = jax.tree.leaves(jax.eval_shape(backward, weights))
        return sum(x.size for x in arrays if x.ndim > 2 and x.shape[-2] == 128)

    tokens, marked = 4 * 2 * 128 * 64, 1 + 3 + 1 + 1 + 4
    assert marked * tokens <= kept("tpu") < (marked + 1) * tokens
    assert kept("cpu") > 1.5 * kept("tpu")


@pytest.mark.parametrize(("heads", "tokens"), [(3, 128), (4, 256)])
def test_the_kernel_is_equal_to_attention_written_out(heads: int, tokens: int) -> None:
    width = 64 * heads
    assert fits(tokens, width, heads)
    qkv = jax.random.normal(jax.random.key(0), (2, tokens, 3 * width))
    weights = jax.random.normal(jax.random.key(1), (2, tokens, width))

    def value(attention: Any) -> Any:
        return jax.value_and_grad(lambda x: jnp.sum(attention(x) * weights))(qkv)

    with jax.default_matmul_precision("float32"):
        expected = value(lambda x: mix_tokens(x, heads))
        found = value(lambda x: fused_attention(x, heads, True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), expected, found
    )


def test_the_kernel_is_taken_for_a_tpu_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = VisionTransformer(width=64, depth=2, heads=1), jnp.zeros((2, 32, 64, 3))
    weights = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images))

    def program(platform: str) -> str:
        with compiling_for(platform):
            return str(jax.make_jaxpr(lambda w: encoder.apply(w, images))(weights))

    assert "pallas_call" in program("tpu") and "pallas_call" not in program("gpu")
    assert not fits(100, 64, 1) and not fits(128, 96, 3)
    # Products of the kernel count for every image.
    count = matrix_operations(lambda x: fused_attention(x, 1), jnp.zeros((16, 128, 192)))
    assert count == 16 * 2 * 2 * 128 * 128 * 64
    monkeypatch.setattr(vit, "fits", lambda *sizes: False)
    assert "pallas_call" not in program("tpu")
