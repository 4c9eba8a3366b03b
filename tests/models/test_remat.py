"""Recomputation in the backward pass: equal values and gradients, and less memory."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.backbone import Backbone
from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.remat import REMAT
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.vit import VisionTransformer

ENCODERS = {
    "vit": (VisionTransformer, {"width": 8, "depth": 2, "heads": 2}, (4, 4)),
    "cnn": (ResNet, {"width": 16, "blocks": (1, 0, 0, 0)}, (8, 4)),
    "compact": (
        CompactEncoder,
        {"width": 16, "blocks": (1, 0, 0), "attention": 1, "heads": 2},
        (8, 4),
    ),
}


def loss_and_statistics(encoder: nn.Module, images: Any, mask: Any, weights: Any) -> Any:
    """A plain and a masked pass in training, as pretraining makes them."""
    network = Backbone(encoder=encoder)

    def loss(params: Any) -> Any:
        variables = {**weights, "params": params}
        apply = {"mutable": ["batch_stats"], "method": "features", "train": True}
        (plain, _), moved = network.apply(variables, images, **apply)
        (masked, _), _ = network.apply(variables, images, mask=mask, **apply)
        total = jnp.sum(jnp.sin(plain)) + jnp.sum(jnp.cos(masked.astype(jnp.float32)))
        return total, moved

    return jax.value_and_grad(loss, has_aux=True)(weights["params"])


@pytest.mark.parametrize("name", ENCODERS)
def test_values_gradients_and_statistics_are_the_same(name: str) -> None:
    kind, sizes, patch = ENCODERS[name]
    random = np.random.default_rng(0)
    images = jnp.asarray(random.uniform(-1, 1, (2, 32, 8, 3)), jnp.float32)
    mask = jnp.asarray(np.arange(32 // patch[0] * 2).reshape(1, -1, 2) % 3 == 1).repeat(2, 0)
    network = Backbone(encoder=kind(**sizes))
    weights = network.init(jax.random.key(0), images, method="features", train=False)
    found = {
        remat: jax.jit(loss_and_statistics, static_argnums=0)(
            kind(**sizes, remat=remat), images, mask, weights
        )
        # "full" holds "blocks".
        for remat in (REMAT if name == "vit" else ("none", "full"))
    }
    for remat in found:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
            found["none"],
            found[remat],
        )
    made = Backbone(encoder=kind(**sizes, remat="full"))
    shapes = jax.eval_shape(
        lambda: made.init(jax.random.key(0), images, method="features", train=False)
    )
    assert jax.tree.structure(shapes) == jax.tree.structure(weights)


def test_a_transformer_keeps_less_for_its_backward_pass() -> None:
    """Bytes that the forward pass hands to the backward pass: XLA for CPU merges both again."""
    images = jnp.zeros((8, 32, 32, 3))
    mask = jnp.zeros((8, 8, 8), bool)
    width, depth, tokens = 16, 6, 8 * 64

    def kept(remat: str) -> int:
        network = Backbone(encoder=VisionTransformer(width, depth, heads=2, remat=remat))

        def loss(weights: Any) -> Any:
            plain, _ = network.apply(weights, images, method="features", train=True)
            masked, _ = network.apply(weights, images, mask=mask, method="features", train=True)
            return jnp.sum(plain * masked)

        def backward(key: Any) -> Any:
            return jax.vjp(loss, network.init(key, images, method="features", train=False))[1]

        arrays = jax.tree.leaves(jax.eval_shape(backward, jax.random.key(0)))
        return sum(x.size * x.dtype.itemsize for x in arrays)

    everything, blocks, full = (kept(remat) for remat in REMAT)
    inputs = 2 * depth * 4 * tokens * width  # of the blocks of both passes
    assert everything > 10 * inputs
    assert inputs < blocks < 3 * inputs  # and parameters, images, what follows the blocks
    assert full < blocks - inputs / 2
