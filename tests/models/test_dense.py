"""Heads that answer every pixel: sizes for every encoder, and their pieces by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.backbone import Backbone
from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.dense.pyramid import Pyramid, centred, pixel_shuffle, resized
from rcmstr_jax.models.dense.segmentation import (
    PyramidSegmenter,
    TokenSegmenter,
    segmentation_loss,
)
from rcmstr_jax.models.dense.super_resolution import (
    SuperResolver,
    gradient_profile,
    super_resolution_loss,
)
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.vit import VisionTransformer
from rcmstr_jax.recognition.encoders import Encoder

ENCODERS = {
    "cnn": (ResNet(width=16, blocks=(1, 1, 1, 1)), (32, 40)),
    "compact": (CompactEncoder(width=16, blocks=(1, 1, 1), attention=0), (32, 40)),
    "vit": (VisionTransformer(width=16, depth=1, heads=1), (32, 48)),
}
ROWS = {"cnn": (32, 16, 8, 4, 4, 1), "compact": (16, 8, 4, 2, 1), "vit": (8,)}


def encoder_of(name: str) -> Encoder:
    """With zeros for parameters; only shapes are looked at."""
    module, size = ENCODERS[name]
    model = Backbone(encoder=module)
    images = jnp.zeros((2, *size, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, method="encode"))
    found = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return Encoder(model, found["params"], found.get("batch_stats", {}), size, {})


def maps_of(encoder: Encoder, train: bool = False) -> tuple[list[Any], Any]:
    images = jax.ShapeDtypeStruct((2, *encoder.image_size, 3), jnp.float32)

    def maps(params: Any, stats: Any, images: Any) -> Any:
        return encoder.maps(params, stats, images, train=train)

    return jax.eval_shape(maps, encoder.params, encoder.batch_stats, images)


@pytest.mark.parametrize("name", ENCODERS)
def test_maps_go_from_fine_to_coarse_and_end_with_what_frames_are_made_of(name: str) -> None:
    encoder = encoder_of(name)
    maps, stats = maps_of(encoder, train=True)
    assert tuple(found.shape[1] for found in maps) == ROWS[name]
    assert maps[-1].shape[2:] == encoder.frames_shape()
    assert jax.tree.structure(stats) == jax.tree.structure(encoder.batch_stats)


def test_maps_are_those_of_the_encoder_as_it_is() -> None:
    """Keeping them moves neither its output nor, outside training, its statistics."""
    module = CompactEncoder(width=16, blocks=(1, 0, 0), attention=0)
    model, images = Backbone(encoder=module), jax.random.normal(jax.random.key(1), (2, 32, 40, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, method="encode"))()
    assert set(variables) == {"params", "batch_stats"}
    stats = variables["batch_stats"]
    encoder = Encoder(model, variables["params"], stats, (32, 40), {})
    maps, after = jax.jit(encoder.maps)(encoder.params, stats, images)
    np.testing.assert_allclose(maps[-1][:, 0], encoder(images), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    assert not np.allclose(maps[0], 0)


@pytest.mark.parametrize("name", ENCODERS)
def test_masks_and_enlargements_have_the_size_of_their_targets(name: str) -> None:
    maps, _ = maps_of(encoder_of(name))
    size = ENCODERS[name][1]
    segmenter: Any = PyramidSegmenter(size, width=8)
    if name == "vit":
        segmenter = TokenSegmenter(size, width=8, depth=1)
    logits, _ = jax.eval_shape(lambda m: segmenter.init_with_output(jax.random.key(0), m), maps)
    assert logits.shape == (2, *size)
    low = jax.ShapeDtypeStruct((2, 16, 64, 3), jnp.float32)
    resolver = SuperResolver(width=8, depth=2)
    high, _ = jax.eval_shape(
        lambda x, m: resolver.init_with_output(jax.random.key(0), x, m), low, maps
    )
    assert high.shape == (2, 32, 128, 3)


def test_the_heads_of_a_vit_have_the_published_shape() -> None:
    tokens = [jax.ShapeDtypeStruct((1, 8, 32, 192), jnp.float32)]
    params = jax.eval_shape(lambda m: TokenSegmenter().init(jax.random.key(0), m), tokens)["params"]
    assert sorted(name for name in params if name.startswith("block")) == [
        f"block_{i}" for i in range(3)
    ]
    assert params["block_0"]["attn"]["qkv"].shape == (384, 3 * 384)
    assert params["pixels"]["kernel"].shape == (384, 16)


def test_pixels_come_out_of_channels_row_by_row() -> None:
    x = jnp.arange(2 * 12).reshape(1, 1, 2, 12).astype(jnp.float32)
    y = pixel_shuffle(x, (2, 2))
    assert y.shape == (1, 2, 4, 3)
    np.testing.assert_array_equal(y[0, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(y[0, 0, 1], [3, 4, 5])
    np.testing.assert_array_equal(y[0, 1, 0], [6, 7, 8])
    np.testing.assert_array_equal(y[0, 1, 3], [21, 22, 23])


def test_frames_on_the_borders_of_columns_are_moved_into_them() -> None:
    """Of a ramp over the columns, whose value is its place: 26 frames lie on the borders of 25."""
    borders = jnp.arange(26.0)[None, None, :, None]
    np.testing.assert_allclose(centred(borders, 50)[0, 0, :, 0], np.arange(25) + 0.5)
    same = jnp.arange(25.0)[None, None, :, None]
    assert centred(same, 50) is same and centred(borders, 26) is borders
    doubled = resized(centred(borders, 50), (1, 50))[0, 0, :, 0]
    np.testing.assert_allclose(doubled[1:-1], (np.arange(50) + 0.5)[1:-1] / 2, rtol=1e-6)


def test_every_map_takes_part_in_the_merged_one() -> None:
    key = jax.random.key(0)
    maps = [jax.random.normal(key, (1, n, 2 * n, 3)) for n in (4, 2, 1)]
    params = Pyramid(4).init(key, maps)
    whole = Pyramid(4).apply(params, maps)
    assert whole.shape == (1, 4, 8, 4)
    for place in range(3):
        without = [jnp.zeros_like(m) if i == place else m for i, m in enumerate(maps)]
        assert np.abs(Pyramid(4).apply(params, without) - whole).max() > 1e-3


def test_an_untrained_resolver_is_bicubic() -> None:
    images = jax.random.uniform(jax.random.key(0), (1, 4, 8, 3))
    maps = [jax.random.normal(jax.random.key(1), (1, 2, 4, 5))]
    found, _ = SuperResolver(width=8, depth=2).init_with_output(jax.random.key(2), images, maps)
    np.testing.assert_array_equal(found, resized(images, (8, 16), "cubic"))


def test_the_loss_of_masks_is_the_mean_over_pixels() -> None:
    logits = jnp.asarray([[[0.0, 2.0]], [[-1.0, 0.0]]])
    masks = jnp.asarray([[[1, 1]], [[1, 0]]], jnp.uint8)
    total, count = segmentation_loss(logits, masks)
    by_hand = (np.log(2) + np.log1p(np.exp(-2.0))) / 2 + (np.log1p(np.exp(1.0)) + np.log(2)) / 2
    np.testing.assert_allclose(total, by_hand, rtol=1e-6)
    assert count == 2


def test_the_profile_of_a_ramp_is_its_slope() -> None:
    ramp = jnp.broadcast_to(3.0 * jnp.arange(5.0)[None, :, None], (5, 5, 1))[None]
    profile = gradient_profile(ramp)
    np.testing.assert_allclose(profile[0, 1:-1, 1:-1, 0], np.sqrt(9 + 1e-6), rtol=1e-6)
    # Below the first row lies zero outside: (second row - 0) / 2.
    np.testing.assert_allclose(profile[0, 0, 2, 0], np.hypot(3, 6 / 2), rtol=1e-5)


def test_the_loss_of_enlargements_by_hand() -> None:
    """A difference of a constant 0.1: 20 x 0.01, and that of the profiles at the border alone."""
    wanted = jnp.full((3, 6, 8, 3), 0.5)
    total, count = super_resolution_loss(wanted + 0.1, wanted)
    edges = np.zeros((6, 8, 2))
    edges[[0, -1], :, 0] = 0.5
    edges[:, [0, -1], 1] = 0.5

    def profile(value: float) -> np.ndarray:
        return np.sqrt(((value * edges) ** 2).sum(-1) + 1e-6)

    each = 20 * 0.01 + 1e-4 * np.abs(profile(0.6) - profile(0.5)).mean()
    np.testing.assert_allclose(total, 3 * each, rtol=1e-5)
    assert count == 3
