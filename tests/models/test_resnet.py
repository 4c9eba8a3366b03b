"""The 29-layer ResNet against the published ancestor's figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.ssl.masking import draw_mask, visible_count
from rcmstr_jax.training import parallel
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


def gradients(model: ResNet, form: str, visible_count: int | None = None) -> Any:
    """A compiled function: features, active frames, statistics and gradients of a masked pass."""

    def run(variables: Any, images: Any, mask: Any, cotangent: Any) -> Any:
        def loss(params: Any, images: Any) -> Any:
            (features, active), state = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mask=mask,
                form=form,
                visible_count=visible_count,
                mutable=["batch_stats"],
            )
            return jnp.sum(features * cotangent), (features, active, state)

        grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return grad(variables["params"], images)

    return jax.jit(run)


def example(model: ResNet, batch: int, columns: int) -> tuple[Any, jax.Array, jax.Array]:
    """Variables, images and a cotangent in float64."""
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (batch, 32, 4 * columns, 3), jnp.float64)
    variables = jax.jit(model.init)(keys[1], images[:1])
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
    shape = (batch, 1, columns + 1, model.width)
    return variables, images, jax.random.normal(keys[2], shape, jnp.float64)


def assert_equal(ours: Any, theirs: Any) -> None:
    """To 1e-9 of the largest figure of each array."""

    def check(a: Any, b: Any) -> None:
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(
            np.asarray(a, float), np.asarray(b, float), rtol=0, atol=1e-9 * scale
        )

    jax.tree.map(check, ours, theirs)


def test_packed_equals_masked_dense_for_the_whole_encoder(x64: None) -> None:
    model = ResNet(width=16)
    variables, images, cotangent = example(model, 2, 25)
    mask = draw_mask(jax.random.key(5), 2, (4, 25))
    inputs = (variables, images, mask, cotangent)
    dense = gradients(model, "masked_dense")(*inputs)
    assert_equal(gradients(model, "packed", 30)(*inputs), dense)


def test_packed_equals_masked_dense_at_every_ratio(x64: None) -> None:
    model = ResNet(width=16, blocks=(1, 1, 1, 1))
    grid = (4, 10)
    variables, images, cotangent = example(model, 2, grid[1])
    dense = gradients(model, "masked_dense")
    # Tight tables at 70 %; room for 36 of 40 patches serves every ratio from 10 % on.
    tight, roomy = (gradients(model, "packed", visible) for visible in (12, 36))

    def compare(seed: int, ratio: float, packed: Any) -> None:
        kind = "patch_block" if ratio > 0.3 else "patch"
        mask = draw_mask(jax.random.key(seed), 2, grid, mask_ratio=ratio, kind=kind)
        assert int((~mask[0]).sum()) == visible_count(grid, ratio, kind=kind)
        inputs = (variables, images, mask, cotangent)
        assert_equal(packed(*inputs), dense(*inputs))

    over_masks(partial(compare, packed=tight), st.just(0.7), examples=3)
    over_masks(partial(compare, packed=roomy), st.floats(0.1, 0.95), examples=8)
    # Other masks, the same programs.
    assert dense._cache_size() == tight._cache_size() == roomy._cache_size() == 1
    hides_nothing(model, variables, images, cotangent, dense)
    hidden_pixels_have_no_influence(variables, images, cotangent, (dense, roomy))


def over_masks(
    compare: Callable[[int, float], None], ratios: st.SearchStrategy[float], examples: int
) -> None:
    """Calls with several seeds and ratios of masks."""

    @settings(max_examples=examples, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1), ratio=ratios)
    def check(seed: int, ratio: float) -> None:
        compare(seed, ratio)

    check()


def test_four_devices_equal_one(x64: None) -> None:
    """Packed on four devices, masked-dense on one that holds all images."""
    small = {"width": 16, "blocks": (1, 1, 1, 1)}
    variables, images, cotangent = example(ResNet(**small), 8, 5)
    # Unequal numbers of active sites: devices must be weighted by them.
    random = np.random.default_rng(0)
    hidden = jnp.asarray(random.random((8, 4, 5)) < np.linspace(0.1, 0.9, 8)[:, None, None])
    one = gradients(ResNet(**small), "masked_dense")(variables, images, hidden, cotangent)
    shared = gradients(ResNet(**small, axis_name=parallel.AXIS), "packed", 20)
    many = parallel.pmap_step(lambda v, b: shared(v, b["images"], b["mask"], b["cotangent"]))(
        parallel.replicate(variables),
        parallel.shard_batch({"images": images, "mask": hidden, "cotangent": cotangent}),
    )
    ((d_params, d_images), (features, active, state)) = many
    whole = [jnp.concatenate(list(x)) for x in (d_images, features, active)]
    assert_equal(
        ((jax.tree.map(lambda x: x.sum(0), d_params), whole[0]), whole[1:]),
        (one[0], list(one[1][:2])),
    )
    for device in range(4):
        assert_equal(jax.tree.map(lambda x, d=device: x[d], state), one[1][2])


def hides_nothing(model: Any, variables: Any, images: Any, cotangent: Any, masked: Any) -> None:
    """A mask that hides nothing gives the dense forward pass."""
    mask = jnp.zeros((2, 4, 10), bool)
    (_, (features, active, state)) = masked(variables, images, mask, cotangent)
    assert bool(active.all())
    (dense, none), dense_state = jax.jit(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, images)
    assert none is None
    assert_equal((features, state), (dense, dense_state))
    forward = jax.jit(lambda v, x: model.apply(v, x, mask=mask, form="packed", visible_count=40)[0])
    dense = jax.jit(lambda v, x: model.apply(v, x)[0])(variables, images)
    assert_equal(forward(variables, images), dense)
    forward = jax.jit(lambda v, x: model.apply(v, x, mask=mask)[0])
    np.testing.assert_array_equal(forward(variables, images), dense)


def hidden_pixels_have_no_influence(
    variables: Any, images: Any, cotangent: Any, functions: tuple[Any, ...]
) -> None:
    """Neither a value nor a gradient changes with the pixels under hidden patches."""
    mask = draw_mask(jax.random.key(3), 2, (4, 10), mask_ratio=0.95)
    hidden = jnp.repeat(jnp.repeat(mask, 8, axis=1), 4, axis=2)[..., None]
    for function in functions:
        before = function(variables, images, mask, cotangent)
        other = jnp.where(hidden, jnp.nan, images)
        after = function(variables, other, mask, cotangent)
        jax.tree.map(np.testing.assert_array_equal, before, after)
        assert not np.asarray(jnp.where(hidden, before[0][1], 0)).any()


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
def test_bad_arguments_are_named(model: ResNet, shape: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), **options))


def test_parameter_count_of_the_published_size() -> None:
    shapes = jax.eval_shape(
        lambda: ResNet().init(jax.random.key(0), jnp.zeros((1, 32, 100, 3), jnp.float32))
    )
    # Convolutions and two numbers per channel and norm, added up by hand from the table of layers.
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 44264480
