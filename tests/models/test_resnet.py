"""The 29-layer ResNet against the published ancestor's figures."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.resnet import ResNet, frames
from tests.models import golden

# The file holds the images in float32, the ancestor saw them in float64: rounding the images again
# moves the figures by 7e-9 (running statistics) and 5e-7 (batch statistics) of their largest value.
TOLERANCE = {"eval": 1e-8, "train": 1e-6}
PREFIX = "FeatureExtraction.ConvNet."


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_matches_the_ancestor(mode: str, golden_dir: Path, x64: None) -> None:
    arrays = golden.load(golden_dir / "encoder_resnet_bilstm.npz")
    variables = golden.resnet_variables(arrays, f"sd/{PREFIX}")
    images = jnp.asarray(golden.channels_last(arrays["image"]))
    width = arrays[f"{mode}/feature_map"].shape[1]
    model = ResNet(width=width)

    @jax.jit
    def forward(variables, images):
        train = mode == "train"
        collections = ["batch_stats", "intermediates"]
        return model.apply(variables, images, train=train, mutable=collections)

    (features, active), state = forward(variables, images)
    assert active is None
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        (value,) = state["intermediates"][stage]
        expected = golden.channels_last(arrays[f"{mode}/{stage}"])
        np.testing.assert_allclose(value, expected, atol=TOLERANCE[mode] * np.abs(expected).max())
    expected = golden.channels_last(arrays[f"{mode}/feature_map"])
    np.testing.assert_allclose(features, expected, atol=TOLERANCE[mode] * np.abs(expected).max())
    np.testing.assert_allclose(frames(features), features[:, 0], atol=0)
