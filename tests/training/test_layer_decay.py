"""Layers are numbered from the image upwards, and their updates shrink towards it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.vit import VisionTransformer
from rcmstr_jax.training.layer_decay import layer_numbers, scale_by_layer
from rcmstr_jax.training.plan import LabelPlan
from rcmstr_jax.training.recognition_step import recognition_optimizer


def parts(model, width: int) -> dict:
    images = jax.ShapeDtypeStruct((1, 32, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)["params"]


def test_layers_of_the_vit() -> None:
    numbers = layer_numbers(parts(VisionTransformer(width=8, depth=11, heads=1), 128))
    assert numbers["patch_embed"] == numbers["mask_token"] == 0
    # By number, not by name: block_10 follows block_9.
    assert [numbers[f"block_{i}"] for i in range(11)] == list(range(1, 12))
    assert numbers["norm"] == 12 and len(numbers) == 14


def test_layers_of_the_cnn() -> None:
    numbers = layer_numbers(parts(ResNet(width=16), 100))
    forward = [["conv0_1", "bn0_1", "conv0_2", "bn0_2"]]
    for stage, blocks in enumerate((1, 2, 5, 3), 1):
        forward += [[f"layer{stage}_{i}"] for i in range(blocks)]
        forward += [[f"conv{stage}", f"bn{stage}"]] if stage < 4 else []
    forward += [["conv4_1", "bn4_1"], ["conv4_2", "bn4_2"]]
    assert numbers == {name: i for i, names in enumerate(forward) for name in names}


def test_an_unknown_part() -> None:
    with pytest.raises(ValueError, match="'stem' has no known place"):
        layer_numbers(["stem"])


def test_updates_shrink_towards_the_image() -> None:
    ones = {"w": jnp.ones(2)}
    encoder = {"patch_embed": ones, "block_0": ones, "norm": ones}
    updates = {"decoder": ones, "encoder": {"encoder": encoder, "rectifier": ones}}
    scale = scale_by_layer(0.5, encoder)
    scaled, _ = scale.update(updates, scale.init(updates), updates)
    found = {name: float(tree["w"][0]) for name, tree in scaled["encoder"]["encoder"].items()}
    assert found == {"patch_embed": 0.125, "block_0": 0.25, "norm": 0.5}
    assert float(scaled["decoder"]["w"][0]) == 1.0


def test_the_optimizer_has_them_and_decays_kernels_alone() -> None:
    kernel, bias = {"w": jnp.ones((2, 2))}, {"w": jnp.ones(2)}
    encoder = {"patch_embed": kernel, "norm": kernel}
    params = {"decoder": {"kernel": kernel, "bias": bias}, "encoder": {"encoder": encoder}}
    labels = LabelPlan((), learning_rate=1.0, clip=0.0, weight_decay=0.5, layer_decay=0.25)
    optimizer, schedule = recognition_optimizer(10, labels, params["encoder"])
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    rate = float(schedule(0))
    np.testing.assert_allclose(updates["decoder"]["kernel"]["w"], -0.5 * rate, rtol=1e-6)
    np.testing.assert_array_equal(updates["decoder"]["bias"]["w"], 0.0)
    norm, embed = (updates["encoder"]["encoder"][n]["w"] for n in ("norm", "patch_embed"))
    np.testing.assert_allclose(norm, -0.5 * rate * 0.25, rtol=1e-6)
    np.testing.assert_allclose(embed, -0.5 * rate * 0.25**2, rtol=1e-6)
