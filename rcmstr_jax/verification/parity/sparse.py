"""`sparse_ops.npz`: sparse and dense operators with one set of weights, over a small stack."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import conv, norm, under
from rcmstr_jax.interop.torch_weights import export_weights, flatten
from rcmstr_jax.models.layers import BatchNorm, Conv, max_pool
from rcmstr_jax.models.packed import pack, unpack
from rcmstr_jax.models.resnet import BasicBlock
from rcmstr_jax.models.sites import Sites
from rcmstr_jax.verification.parity.encoder import channels_first
from rcmstr_jax.verification.parity.fixture import Fixture
from rcmstr_jax.verification.parity.networks import size_of

FILE = "sparse_ops.npz"
_LAYERS = [*conv("conv(?P<n>[0-9])", "conv{n}"), *norm("bn(?P<n>[0-9])", "bn{n}")]
_SHORTCUT = [*conv("downsample_conv", "downsample.0"), *norm("downsample_bn", "downsample.1")]
RULES = under(
    "(?:params|batch_stats)/",
    "",
    [*_LAYERS, *under("block(?P<block>[0-9])/", "block{block}.", [*_LAYERS, *_SHORTCUT])],
)
FORMS = ("masked_dense", "packed")


class Stack(nn.Module):
    """The layers of the fixture, each one of those the encoder is made of.

    Attributes:
      widths: channels of the first convolution, both blocks, and the last convolution.
    """

    widths: tuple[int, int, int, int]

    @nn.compact
    def __call__(self, x: Array, sites: Sites | None = None, *, train: bool = False) -> Array:
        if sites is not None:
            x = jnp.where(sites.active[..., None], x, 0)
            x = pack(x, sites) if sites.packed else x
        x = Conv(self.widths[0], name="conv0")(x, sites)
        x = nn.relu(BatchNorm(name="bn0")(x, sites, train=train))
        for block in (1, 2):
            x = max_pool(x, sites)
            sites = sites and sites.through((2, 2), (2, 2))
            x = BasicBlock(self.widths[block], name=f"block{block}")(x, sites, train=train)
        x = Conv(self.widths[3], name="conv3")(x, sites)
        x = nn.relu(BatchNorm(name="bn3")(x, sites, train=train))
        return unpack(x, sites) if sites is not None and sites.packed else x


def check(fixture: Fixture) -> None:
    """Dense and sparse passes, running statistics, gradients; both forms of the sparse one."""
    images = fixture.images("image")
    names = ("conv0", "block1.conv1", "block2.conv1", "conv3")
    widths = tuple(fixture.shape(f"sd/{name}.weight")[0] for name in names)
    assert len(widths) == 4
    stack: Any = Stack(widths)
    shapes = template(stack, jnp.zeros((1, *images.shape[1:])))
    variables = fixture.weights("sd/", shapes, RULES)
    out, _ = stack.apply(variables, images, train=True, mutable=["batch_stats"])
    fixture.compare("dense/train/out", channels_first(out))
    active = np.asarray(fixture.raw("active"), bool)
    for form in FORMS:
        count = int(active.sum((1, 2)).max()) if form == "packed" else None
        sites = Sites.from_patches(jnp.asarray(~active), size_of(images), count)
        _check_form(fixture, stack, variables, images, sites)


def _check_form(fixture: Fixture, stack: Any, variables: Any, images: Array, sites: Sites) -> None:
    cotangent = fixture.images("sparse/train/cotangent")

    def objective(params: Any) -> tuple[Array, tuple[Array, Any]]:
        out, changed = stack.apply(
            {**variables, "params": params}, images, sites, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(out * cotangent), (out, changed["batch_stats"])

    gradients, (out, statistics) = jax.grad(objective, has_aux=True)(variables["params"])
    fixture.compare("sparse/train/out", channels_first(out))
    moved = flatten({"batch_stats": statistics})
    for name, value in export_weights(moved, RULES, counters=False).items():
        fixture.compare(f"sparse/train/after/{name}", value)
    for name, value in export_weights(flatten({"params": gradients}), RULES).items():
        fixture.compare(f"sparse/train/grad/{name}", value, kind="gradient")
    after = {"params": variables["params"], "batch_stats": statistics}
    out = stack.apply(after, images, sites, train=False)
    fixture.compare("sparse/eval/out_after_one_train_step", channels_first(out))
