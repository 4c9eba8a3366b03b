"""Text image super-resolution: a small word crop in twice its height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rcmstr_jax.models.dense.pyramid import Pyramid, pixel_shuffle, resized, zero_linear
from rcmstr_jax.models.layers import Conv
from rcmstr_jax.models.linear import Linear

SCALE = 2
# TSRN (Wang et al., ECCV 2020, arXiv 2005.03341): weights of the squared error and of the profile.
ERROR_WEIGHT, PROFILE_WEIGHT = 20.0, 1e-4


class SuperResolver(nn.Module):
    """An encoder's maps of a small image beside a shallow convolutional path, and pixel shuffle.

    The result is the image in twice its size, by bicubic interpolation, and a correction that is
    zero at first.

    Attributes:
      width: channels of the path and of the merged maps.
      depth: residual blocks of two 3x3 convolutions each, half of them before the maps join.
      dtype: arithmetic; None computes in the type of the input.
    """

    width: int = 64
    depth: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        maps: Sequence[Float[Array, "batch _ _ _"]],
    ) -> Float[Array, "batch tall wide 3"]:
        """Enlarges images.

        Args:
          images: values in [0, 1].
          maps: what an encoder sees of them, fine to coarse, of any size.

        Returns:
          Images in twice the height and width; values may lie a little outside of [0, 1].
        """
        height, width = images.shape[1:3]
        x = nn.relu(self._conv("first", images))
        for index in range(self.depth):
            if index == self.depth // 2:
                seen = Pyramid(self.width, self.dtype, name="pyramid")(maps)
                x = jnp.concatenate([x, resized(seen, (height, width)).astype(x.dtype)], axis=-1)
                x = Linear(self.width, dtype=self.dtype, name="join")(x)
            y = nn.relu(self._conv(f"block{index}_1", x))
            x = x + self._conv(f"block{index}_2", y)
        x = nn.relu(self._conv("last", x))
        x = zero_linear(3 * SCALE * SCALE, self.dtype, "pixels")(x)
        enlarged = resized(images, (SCALE * height, SCALE * width), "cubic")
        return enlarged + pixel_shuffle(x, (SCALE, SCALE)).astype(enlarged.dtype)

    def _conv(self, name: str, x: Array) -> Array:
        return Conv(self.width, dtype=self.dtype, name=name)(x)


def gradient_profile(
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Length of the gradient at every pixel, by central differences with zeros around the image."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return jnp.sqrt(across**2 + down**2 + 1e-6)  # a root of zero has no gradient


def super_resolution_loss(
    found: Float[Array, "batch height width 3"], wanted: Float[Array, "batch height width 3"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """TSRN's: 20 times the mean squared error, and 1e-4 times the mean difference of profiles.

    Args:
      found: values in [0, 1].
      wanted: the same.

    Returns:
      The sum over the images, and their number.
    """
    error = jnp.mean((found - wanted) ** 2, axis=(1, 2, 3))
    difference = jnp.abs(gradient_profile(found) - gradient_profile(wanted))
    profile = jnp.mean(difference, axis=(1, 2, 3))
    each = ERROR_WEIGHT * error + PROFILE_WEIGHT * profile
    return each.sum(), jnp.asarray(len(found), each.dtype)
