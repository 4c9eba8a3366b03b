"""Layers on dense, masked and packed maps against published figures and hand-computed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models import layers
from rcmstr_jax.models.layers import BatchNorm, Conv, keep_active, max_pool
from rcmstr_jax.models.packed import pack, unpack
from rcmstr_jax.models.resnet import BasicBlock
from rcmstr_jax.models.sites import Pair, Sites
from tests.models import golden


class Stack(nn.Module):
    """The small network of `sparse_ops.npz`."""

    width: int

    @nn.compact
    def __call__(self, x: Any, sites: Sites | None = None, *, train: bool) -> Any:
        x = Conv(self.width // 2, name="conv0")(x, sites)
        x = nn.relu(BatchNorm(name="bn0")(x, sites, train=train))
        for block in ("block1", "block2"):
            x, sites = max_pool(x, sites), sites and sites.through((2, 2), (2, 2))
            x = BasicBlock(self.width, name=block)(x, sites, train=train)
        x = Conv(self.width, name="conv3")(x, sites)
        x = nn.relu(BatchNorm(name="bn3")(x, sites, train=train))
        return unpack(x, sites) if sites is not None and sites.packed else x


def compare(ours: Any, theirs: Any) -> None:
    """All figures of `theirs` in `ours`, to nine digits."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max()),
        ours,
        theirs,
    )


@pytest.mark.parametrize("form", ["masked_dense", "packed"])
def test_masked_stack_matches_published_figures(form: str, golden_dir: Path, x64: None) -> None:
    arrays = golden.load(golden_dir / "sparse_ops.npz")
    variables = golden.resnet_variables(arrays, "sd/")
    images = jnp.asarray(golden.channels_last(arrays["image"]))
    hidden = ~arrays["active"]
    cotangent = jnp.asarray(golden.channels_last(arrays["sparse/train/cotangent"]))
    # The number of active sites differs between these images: slots stay unused in some.
    count = int((~hidden).sum(axis=(1, 2)).max()) if form == "packed" else None
    model = Stack(width=cotangent.shape[-1])

    def run(params: Any, stats: Any, train: bool) -> Any:
        sites = Sites.from_patches(jnp.asarray(hidden), images.shape[1:3], count)
        x = pack(images, sites) if sites.packed else keep_active(images, sites)
        out, state = model.apply(
            {"params": params, "batch_stats": stats}, x, sites, train=train, mutable=["batch_stats"]
        )
        return jnp.sum(out * cotangent), (out, state["batch_stats"])

    params, stats = variables["params"], variables["batch_stats"]
    step = jax.jit(jax.value_and_grad(lambda p: run(p, stats, True), has_aux=True))
    (_, (out, after)), gradient = step(params)
    compare(out, golden.channels_last(arrays["sparse/train/out"]))
    compare(after, golden.resnet_variables(arrays, "sparse/train/after/")["batch_stats"])
    compare(gradient, golden.resnet_variables(arrays, "sparse/train/grad/")["params"])
    (_, (out, _)) = jax.jit(lambda s: run(params, s, False))(after)
    compare(out, golden.channels_last(arrays["sparse/eval/out_after_one_train_step"]))


def test_dense_stack_matches_published_figures(golden_dir: Path, x64: None) -> None:
    arrays = golden.load(golden_dir / "sparse_ops.npz")
    images = jnp.asarray(golden.channels_last(arrays["image"]))
    expected = golden.channels_last(arrays["dense/train/out"])
    model = Stack(width=expected.shape[-1])
    variables = golden.resnet_variables(arrays, "sd/")
    forward = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[0])
    compare(forward(variables, images), expected)


def test_pool_hands_its_gradient_to_the_first_maximum() -> None:
    x = jnp.asarray([[1.0, 1.0, 0.0], [1.0, 2.0, 2.0], [3.0, 0.0, 2.0]])[None, ..., None]
    for options, value, gradient in (
        ({"strides": (1, 1)}, [[2, 2], [3, 2]], [[0, 0, 0], [0, 3, 0], [1, 0, 0]]),
        (
            {"strides": (2, 1), "padding": (0, 1)},
            [[1, 2, 2, 2]],
            [[1, 0, 0], [0, 2, 1], [0, 0, 0]],
        ),
    ):
        y, pullback = jax.vjp(lambda x, options=options: max_pool(x, **options), x)
        np.testing.assert_array_equal(y[0, ..., 0], value)
        np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0][0, ..., 0], gradient)


def test_hidden_sites_are_left_out_of_a_maximum() -> None:
    x = -jnp.arange(1.0, 9.0).reshape(1, 2, 4, 1)
    hidden = jnp.asarray([[[True, False], [False, True]]])
    dense = Sites.from_patches(hidden, (2, 4))
    y = max_pool(keep_active(x, dense), dense)
    np.testing.assert_array_equal(y[0, :, :, 0], [[-5, -3]])
    sites = Sites.from_patches(hidden, (2, 4), 2)
    out = sites.through((2, 2), (2, 2))
    np.testing.assert_array_equal(unpack(max_pool(pack(x, sites), sites), out), y)
    tall = {"window": (2, 2), "strides": (2, 1), "padding": (0, 1)}
    y = max_pool(keep_active(x, dense), dense, **tall)
    out = sites.through((2, 2), (2, 1), (0, 1))
    np.testing.assert_array_equal(unpack(max_pool(pack(x, sites), sites, **tall), out), y)


def test_batch_norm_keeps_its_digits_far_from_zero() -> None:
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype(np.float32) + 5000
    model = BatchNorm()
    variables = model.init(jax.random.key(0), jnp.asarray(x))
    y, state = model.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + 1e-5), atol=3e-3)
    ours = (state["batch_stats"]["var"] - 0.9) / 0.1
    np.testing.assert_allclose(ours, exact.var((0, 1, 2), ddof=1), rtol=1e-4)


def test_batch_norm_leaves_statistics_that_may_not_change() -> None:
    model = BatchNorm()
    x = jnp.ones((2, 3, 4)) * 7
    variables = model.init(jax.random.key(0), x)
    model.apply(variables, x, train=True)
    _, state = model.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.7, rtol=1e-6)


@pytest.mark.parametrize("form", ["dense", "masked_dense", "packed"])
def test_batch_norm_shares_statistics_between_devices(form: str, x64: None) -> None:
    """Four devices give the figures and gradients of one device that holds their images."""
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(8, 4, 6, 5)))
    weights = jnp.asarray(random.normal(size=(8, 4, 6, 5)))
    # Unequal numbers of active sites: devices must be weighted by them.
    hidden = jnp.asarray(random.random((8, 2, 3)) < np.linspace(0, 0.8, 8)[:, None, None])
    params = {
        "scale": jnp.asarray(random.normal(size=5)),
        "bias": jnp.asarray(random.normal(size=5)),
    }
    stats = {"mean": jnp.zeros(5), "var": jnp.ones(5)}

    def run(model: BatchNorm, images: Any, weights: Any, hidden: Any) -> Any:
        def loss(images: Any, params: Any) -> Any:
            sites = None
            if form != "dense":
                sites = Sites.from_patches(hidden, (4, 6), 6 if form == "packed" else None)
            x = pack(images, sites) if form == "packed" else images
            variables = {"params": params, "batch_stats": stats}
            y, state = model.apply(variables, x, sites, train=True, mutable=["batch_stats"])
            y = unpack(y, sites) if form == "packed" else y
            return jnp.sum(y * weights), (y, state["batch_stats"])

        (_, aux), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(images, params)
        return aux, gradients

    split = [x.reshape(4, 2, *x.shape[1:]) for x in (images, weights, hidden)]
    model = BatchNorm(axis_name="devices")
    shared = jax.pmap(lambda *x: run(model, *x), "devices", devices=jax.devices()[:4])(*split)
    ((y, state), (d_images, d_params)) = shared
    whole = [x.reshape(-1, *x.shape[2:]) for x in split]
    ((one_y, one_state), (one_images, one_params)) = run(BatchNorm(), *whole)
    compare(y.reshape(one_y.shape), one_y)
    compare(d_images.reshape(one_images.shape), one_images)
    compare(jax.tree.map(lambda x: x.sum(0), d_params), one_params)
    for member in range(4):
        compare(jax.tree.map(lambda x, m=member: x[m], state), one_state)


@pytest.mark.parametrize("window", [((3, 3), (1, 1)), ((2, 2), (0, 1)), ((1, 3), (0, 0))])
def test_gradients_written_as_forward_convolutions_are_those_of_the_convolution(
    window: tuple[Pair, Pair], x64: None
) -> None:
    size, padding = window
    x, kernel = (
        jax.random.normal(jax.random.key(i), shape, jnp.float64)
        for i, shape in enumerate([(2, 5, 7, 3), (*size, 3, 4)])
    )
    y, backward = jax.vjp(lambda x, k: layers._convolve(x, k, (1, 1), padding), x, kernel)
    ours, our_backward = jax.vjp(
        lambda x, k: layers._convolve_by_products(x, k, padding), x, kernel
    )
    np.testing.assert_array_equal(ours, y)
    dy = jax.random.normal(jax.random.key(2), y.shape, jnp.float64)
    for one, other in zip(our_backward(dy), backward(dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
