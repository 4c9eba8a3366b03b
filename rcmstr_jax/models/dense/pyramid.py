"""Feature maps of several resolutions merged into one, and pixels taken out of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from einops import rearrange
from jaxtyping import Array, Float

from rcmstr_jax.models.layers import Conv
from rcmstr_jax.models.linear import LayerNorm, Linear

Map = Float[Array, "batch rows columns channels"]


class Pyramid(nn.Module):
    """Maps of an encoder, fine to coarse, merged from the coarsest to the finest.

    Every map is normalised per place and mapped to `width` channels; the coarser sum, resized
    bilinearly, is added, and a 3x3 convolution mixes both. No batch statistics.

    Attributes:
      width: channels of the result.
      dtype: arithmetic; None computes in the type of the input.
    """

    width: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "batch _ _ _"]]
    ) -> Float[Array, "batch rows columns width"]:
        """Merges maps; the result has the size of the first."""
        finest = maps[0].shape[2]
        x: Any = None
        for index in reversed(range(len(maps))):
            y = layer_norm(self.dtype, f"norm_{index}")(centred(maps[index], finest))
            y = Linear(self.width, dtype=self.dtype, name=f"lateral_{index}")(y)
            if x is not None:
                y = y + resized(x, (y.shape[1], y.shape[2]))
            y = Conv(self.width, dtype=self.dtype, name=f"conv_{index}")(y)
            x = nn.relu(layer_norm(self.dtype, f"merged_{index}")(y))
        return x


def centred(x: Map, columns: int) -> Float[Array, "batch rows _ channels"]:
    """A map whose columns stand where those of a finer one of so many columns do.

    The last layers of the convolutional encoders make W/4 + 1 columns, which lie on the borders
    between W/4; the mean of two neighbours lies in the middle again.
    """
    last = x.shape[2]
    if columns % last and last > 1 and columns % (last - 1) == 0:
        return (x[:, :, :-1] + x[:, :, 1:]) / 2
    return x


def resized(
    x: Map, size: tuple[int, int], method: str = "linear"
) -> Float[Array, "batch _ _ channels"]:
    """A map or image in another size; "linear" or "cubic"."""
    if x.shape[1:3] == size:
        return x
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x, shape, method, antialias=False)


def pixel_shuffle(
    x: Float[Array, "batch rows columns numbers"], cell: tuple[int, int]
) -> Float[Array, "batch height width channels"]:
    """Every place becomes a cell of pixels: channels are (height, width, channel) of the cell."""
    return rearrange(x, "b r c (h w d) -> b (r h) (c w) d", h=cell[0], w=cell[1])


def layer_norm(dtype: Any, name: str) -> LayerNorm:
    """Over the channels of a place, with the two-pass variance."""
    return LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


def zero_linear(features: int, dtype: Any, name: str) -> nn.Dense:
    """A linear map that gives nothing at first."""
    zeros = nn.initializers.zeros
    return nn.Dense(features, dtype=dtype, kernel_init=zeros, bias_init=zeros, name=name)
