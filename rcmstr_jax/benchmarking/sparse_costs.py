"""What the masked encoder computes and moves, counted from the shapes of its layers.

Nothing runs: the shapes are those that the encoder itself passes to its convolutions. Norms, pools
and the making of index tables are left out: they touch every value once or twice, a convolution
hundreds of times.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rcmstr_jax.models.layers import Conv
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.ssl.masking import visible_count
from rcmstr_jax.training.plan import ModelPlan

_BYTES = 4  # float32


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution, for one image.

    Attributes:
      name: its path in the parameter tree.
      kernel: height and width.
      inputs: sites that are read.
      outputs: sites that are computed.
      channels: of an input site.
      features: of an output site.
      packed: whether its neighbours are gathered.
    """

    name: str
    kernel: tuple[int, int]
    inputs: int
    outputs: int
    channels: int
    features: int
    packed: bool

    @property
    def operations(self) -> int:
        """Multiplications and additions of the forward pass; backward has twice as many."""
        return 2 * self.outputs * math.prod(self.kernel) * self.channels * self.features

    @property
    def bytes(self) -> int:
        """Bytes that the forward pass reads and writes, of maps and of the index table.

        A gather reads its table and the neighbours of every site, and writes these as rows of a
        matrix, which the product reads again. Indices are as wide as float32.
        """
        read = self.inputs * self.channels
        if self.packed and self.kernel != (1, 1):
            read = self.outputs * math.prod(self.kernel) * (1 + 3 * self.channels)
        return _BYTES * (read + self.outputs * self.features)


def encoder_layers(
    width: int = 512,
    ratio: float = 0.0,
    form: str = "dense",
    *,
    blocks: tuple[int, int, int, int] = (1, 2, 5, 3),
) -> list[Layer]:
    """The convolutions of the 29-layer ResNet as one image meets them.

    Args:
      width: of the encoder.
      ratio: share of hidden patches.
      form: "dense", "masked_dense" or "packed".
      blocks: residual blocks per stage.
    """
    grid = ModelPlan().grid
    model = ResNet(width=width, blocks=blocks)
    images = jnp.zeros((1, *ModelPlan().image_size, 3))
    options: dict[str, Any] = {}
    if form != "dense":
        visible = visible_count(grid, ratio, kind="patch")
        hidden = (jnp.arange(math.prod(grid)) >= visible).reshape(1, *grid)
        options = {"mask": hidden, "form": form, "visible_count": visible}
    layers: list[Layer] = []

    def note(call: Any, args: Sequence[Any], kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        conv = context.module
        if isinstance(conv, Conv) and context.method_name == "__call__":
            before, after = args[0].shape, result.shape
            sites = (math.prod(before[1:-1]), math.prod(after[1:-1]))
            packed = len(before) == 3
            name = "/".join(conv.path)
            layers.append(Layer(name, conv.kernel_size, *sites, before[-1], after[-1], packed))
        return result

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, **options))
    return layers


def cost_table(width: int, ratios: Sequence[float]) -> list[list[str]]:
    """Forward operations and bytes per image against the ratio; the first row is the header."""
    dense = encoder_layers(width)
    everything = sum(layer.operations for layer in dense)
    rows = [["hidden", "form", "sites", "GFLOP", "of dense", "MB", "FLOP per byte"]]
    for ratio in (None, *ratios):
        layers, names = dense, ["any", "dense, masked_dense"]
        if ratio is not None:
            layers = encoder_layers(width, ratio, "packed")
            names = [f"{ratio:g}", "packed"]
        operations = sum(layer.operations for layer in layers)
        moved = sum(layer.bytes for layer in layers)
        sites = f"{sum(layer.outputs for layer in layers):,}"
        share, ratio_of_costs = f"{operations / everything:.0%}", f"{operations / moved:.0f}"
        costs = [f"{operations / 1e9:.2f}", share, f"{moved / 1e6:.1f}", ratio_of_costs]
        rows.append([*names, sites, *costs])
    return rows
