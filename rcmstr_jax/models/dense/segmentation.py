"""Text segmentation: which pixels of a word crop belong to its characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Bool, Float, UInt8

from rcmstr_jax.models.dense.pyramid import Pyramid, layer_norm, pixel_shuffle
from rcmstr_jax.models.linear import Linear
from rcmstr_jax.models.vit import Block, sinusoid_positions

Maps = Sequence[Float[Array, "batch _ _ _"]]


class TokenSegmenter(nn.Module):
    """For a vision transformer: a few blocks over its tokens, a linear map to pixels of each patch.

    The shape of CCD's segmentation head (Guan et al., ICCV 2023, arXiv 2303.00235): three blocks of
    two heads, width 384, fixed positions.

    Attributes:
      size: height and width of the images.
      width: of the blocks; a multiple of `heads`.
      depth: number of blocks.
      heads: attention heads.
      dtype: arithmetic; None computes in the type of the input.
    """

    size: tuple[int, int] = (32, 128)
    width: int = 384
    depth: int = 3
    heads: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch height width"]:
        """Logits of the pixels, from the last map alone."""
        _, rows, columns, _ = maps[-1].shape
        cell = self.size[0] // rows, self.size[1] // columns
        x = rearrange(maps[-1], "b r c d -> b (r c) d")
        x = Linear(self.width, dtype=self.dtype, name="embed")(x)
        x = x + jnp.asarray(sinusoid_positions(rows * columns, self.width), x.dtype)[None]
        for index in range(self.depth):
            x = Block(self.heads, dtype=self.dtype, name=f"block_{index}")(x)
        x = layer_norm(self.dtype, "norm")(x)
        x = Linear(cell[0] * cell[1], dtype=self.dtype, name="pixels")(x)
        return pixel_shuffle(rearrange(x, "b (r c) d -> b r c d", r=rows), cell)[..., 0]


class PyramidSegmenter(nn.Module):
    """For a convolutional encoder: its maps merged, and pixels from the finest.

    Attributes:
      size: height and width of the images; a multiple of the first map's.
      width: channels of the merged maps.
      dtype: arithmetic; None computes in the type of the input.
    """

    size: tuple[int, int] = (32, 100)
    width: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch height width"]:
        """Logits of the pixels."""
        x = Pyramid(self.width, self.dtype, name="pyramid")(maps)
        cell = self.size[0] // x.shape[1], self.size[1] // x.shape[2]
        x = Linear(cell[0] * cell[1], dtype=self.dtype, name="pixels")(x)
        return pixel_shuffle(x, cell)[..., 0]


def segmentation_loss(
    logits: Float[Array, "batch height width"],
    masks: UInt8[Array, "batch height width"] | Bool[Array, "batch height width"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Binary cross-entropy, mean over the pixels of an image.

    Returns:
      The sum over the images, and their number.
    """
    each = optax.sigmoid_binary_cross_entropy(logits, masks.astype(logits.dtype))
    return jnp.mean(each, axis=(1, 2)).sum(), jnp.asarray(len(logits), logits.dtype)
