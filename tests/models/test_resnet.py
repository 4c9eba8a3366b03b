"""The 29-layer ResNet against the published ancestor's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.models import masked
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.runtime import parallel
from rcmstr_jax.ssl.masking import draw_mask, visible_count
from tests.models import golden
from tests.models.masked_passes import (
    assert_equal,
    assert_nothing_hidden_is_dense,
    drawing,
    gradients,
)

# The file holds the images in float32, the ancestor saw them in float64: rounding the images again
# moves the figures by 7e-9 (running statistics) and 5e-7 (batch statistics) of their largest value.
TOLERANCE = {"eval": 1e-8, "train": 1e-6}
PREFIX = "FeatureExtraction.ConvNet."
MODEL = ResNet(width=16)


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


class Encoder(NamedTuple):
    """The 29 layers in float64 and what they are given; `dense` is the masked-dense pass."""

    variables: Any
    images: jax.Array
    cotangent: jax.Array
    dense: Any


GRID = (4, 10)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """One image per fake device; parameters and statistics that no initialisation would draw."""
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 32, 4 * GRID[1], 3))

    with jax.enable_x64(True):
        shapes = jax.eval_shape(MODEL.init, jax.random.key(0), images)
        variables = jax.tree_util.tree_map_with_path(drawing(random), shapes)
        cotangent = jnp.asarray(random.normal(size=(4, 1, GRID[1] + 1, MODEL.width)))
        return Encoder(variables, jnp.asarray(images), cotangent, gradients(MODEL, "masked_dense"))


@pytest.mark.parametrize("ratio", [0.7, 0.95])
def test_packed_equals_masked_dense(ratio: float, encoder: Encoder, x64: None) -> None:
    """In values, statistics and gradients; what lies under hidden patches changes none of them."""
    variables, images, cotangent, dense = encoder
    packed = gradients(MODEL, "packed", visible_count(GRID, ratio))
    for seed in range(4):
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
    # Other masks, the same programs.
    assert packed._cache_size() == dense._cache_size() == 1


def test_four_devices_equal_one(encoder: Encoder, x64: None) -> None:
    """Packed on four devices, masked-dense on one that holds all images."""
    variables, images, cotangent, dense = encoder
    # Room for 36 of 40 patches: as tight as it can be at 10 %, and enough for all that hide more.
    packed = gradients(ResNet(width=16, axis_name=parallel.AXIS), "packed", 36)
    on_devices = parallel.pmap_step(
        lambda v, b: packed(v, b["images"], b["mask"], b["cotangent"]),
    )

    @settings(max_examples=6, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1), most=st.floats(0.1, 0.95))
    def compare(seed: int, most: float) -> None:
        # Unequal numbers of active sites: devices must be weighted by them.
        counts = np.round(np.linspace(0.1, most, 4) * 40)[:, None]
        hidden = np.random.default_rng(seed).permuted(np.arange(40) < counts, axis=1)
        mask = jnp.asarray(hidden.reshape(4, *GRID))
        batch = {"images": images, "mask": mask, "cotangent": cotangent}
        many = on_devices(parallel.replicate(variables), parallel.shard_batch(batch))
        ((d_params, d_images), (features, active, state)) = jax.device_get(many)
        d_params = jax.tree.map(lambda x: x.sum(0), d_params)
        d_images, features, active = map(np.concatenate, (d_images, features, active))
        one = dense(variables, images, mask, cotangent)
        for device in range(4):
            of_device = jax.tree.map(lambda x, d=device: x[d], state)
            assert_equal(((d_params, d_images), (features, active, of_device)), one)

    compare()


def test_a_mask_that_hides_nothing_gives_the_dense_pass(encoder: Encoder, x64: None) -> None:
    dense, forward = assert_nothing_hidden_is_dense(MODEL, encoder, GRID)
    mask = jnp.zeros((4, *GRID), bool)
    # To the rounding of float64, which moves with what XLA fuses (JAX 0.12).
    np.testing.assert_allclose(forward(mask=mask)[0][0], dense, rtol=1e-12)


def test_auto_asks_for_the_arithmetic_at_hand(monkeypatch: pytest.MonkeyPatch, x64: None) -> None:
    asked = []

    def choose(*question: Any) -> str:
        asked.append(question)
        return "packed"

    monkeypatch.setattr(masked, "choose_form", choose)
    for dtype, images in ((None, "float32"), (None, "float64"), (jnp.bfloat16, "float32")):
        model = ResNet(width=16, blocks=(0, 0, 0, 0), dtype=dtype)
        options = {"mask": jnp.zeros((1, *GRID), bool), "form": "auto", "visible_count": 12}
        images = jnp.zeros((1, 32, 4 * GRID[1], 3), images)
        jax.eval_shape(lambda m=model, x=images, o=options: m.init(jax.random.key(0), x, **o))
    assert asked == [("cpu", name, 16, 0.3) for name in ("float32", "float64", "bfloat16")]


@pytest.mark.parametrize(
    ("model", "shape", "options", "message"),
    [
        (ResNet(width=24), (1, 32, 100, 3), {}, "width: 24 is not a multiple of 16"),
        (ResNet(width=16), (1, 32, 98, 3), {}, "width divisible by 4"),
        (ResNet(width=16), (1, 32, 100, 3), {"form": "sparse"}, "form: 'sparse' is unknown"),
        (ResNet(width=16), (1, 32, 100, 3), {"mask": jnp.zeros((2, 4, 25), bool)}, "mask: shape"),
        (ResNet(width=16), (1, 32, 100, 3), {"mask": jnp.zeros((1, 4, 32), bool)}, "mask: a grid"),
        (
            ResNet(width=16),
            (1, 32, 100, 3),
            {"mask": jnp.zeros((1, 4, 25), bool), "form": "packed"},
            "visible_count: None; form 'packed' needs",
        ),
    ],
)
def test_bad_arguments_are_named(
    model: ResNet, shape: Any, options: Any, message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), **options))


def test_parameter_count_of_the_published_size() -> None:
    shapes = jax.eval_shape(
        lambda: ResNet().init(jax.random.key(0), jnp.zeros((1, 32, 100, 3), jnp.float32))
    )
    # Convolutions and two numbers per channel and norm, added up by hand from the table of layers.
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 44264480
