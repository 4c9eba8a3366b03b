"""The 29-layer ResNet of the FAN family, dense or masked (method sections 3 and 5)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from rcmstr_jax.models import masked
from rcmstr_jax.models.layers import BatchNorm, Conv, max_pool
from rcmstr_jax.models.remat import kept, recomputed
from rcmstr_jax.models.repeated import through
from rcmstr_jax.models.sites import Pair, Sites

TALL = {"strides": (2, 1), "padding": (0, 1)}  # halves the height, keeps the columns (plus one)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (a 1x1 convolution where the width changes)."""

    features: int
    axis_name: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *sites channels"],
        sites: Sites | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *sites features"]:
        """Maps every site, of a dense or a packed map, to `features` channels."""
        common = {"dtype": self.dtype}
        norm = {"axis_name": self.axis_name, "dtype": self.dtype}
        y = kept(Conv(self.features, **common, name="conv1")(x, sites))
        y = nn.relu(BatchNorm(**norm, name="bn1")(y, sites, train=train))
        y = kept(Conv(self.features, **common, name="conv2")(y, sites))
        y = BatchNorm(**norm, name="bn2")(y, sites, train=train)
        if x.shape[-1] != self.features:
            shortcut = Conv(self.features, (1, 1), (1, 1), (0, 0), **common, name="downsample_conv")
            x = shortcut(x, sites)
            x = BatchNorm(**norm, name="downsample_bn")(x, sites, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """29-layer ResNet for lines of text: 32 x W pixels become one row of W/4 + 1 frames.

    Attributes:
      width: channels of the last stages; all others are 1/16, 1/8, 1/4 and 1/2 of it (512 is the
        published size). A multiple of 16.
      blocks: residual blocks of the four stages.
      axis_name: device axis over which batch statistics are shared; None keeps them local.
      dtype: arithmetic; None computes in the type of the input.
      remat: what is kept for the backward pass, see `models/remat.py`; the packed form then makes
        its index tables in every block.
    """

    width: int = 512
    blocks: tuple[int, ...] = (1, 2, 5, 3)
    axis_name: str | None = None
    dtype: Any = None
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        mask: Bool[Array, "batch rows columns"] | None = None,
        form: str = "masked_dense",
        visible_count: int | None = None,
    ) -> tuple[Float[Array, "batch out_height frames dim"], Bool[Array, "batch frames"] | None]:
        """Encodes images.

        Args:
          images: values in [-1, 1]; height and width divisible by 4.
          train: normalise with the batch's statistics instead of the running ones. The running
            ones move only where the caller makes `batch_stats` mutable.
          mask: hidden patches (True = hidden), a grid that divides height and width; None encodes
            the whole image. What lies under hidden patches has no influence.
          form: how a masked image is computed: "masked_dense", "packed" or "auto", whose numbers
            are the same, or "dense", the ablation without sparsity: hidden patches are filled
            with 0 (grey) and every layer computes everywhere, so that the mask's outline leaks.
          visible_count: number of visible patches in every image of the mask; static. The packed
            form needs it, "auto" stays with "masked_dense" without it.

        Returns:
          The feature map, (batch, height / 32, W/4 + 1, width) with zero where everything is
          hidden, and which frames are active, (batch, frames), None without a mask. In the
          "dense" form every frame is.

        Raises:
          ValueError: width, image size, mask or form do not fit.
        """
        if self.width % 16:
            raise ValueError(f"width: {self.width} is not a multiple of 16")
        x, sites = masked.enter(
            images, mask, form, visible_count, width=self.width, dtype=self.dtype
        )
        x = self._conv(x, sites, "0_1", self.width // 16, train)
        x = self._conv(x, sites, "0_2", self.width // 8, train)
        self.sow("intermediates", "layer0", x)
        x, sites = self._pool(x, sites, strides=(2, 2))
        x = self._stage(x, sites, 1, self.width // 4, train)
        x, sites = self._pool(x, sites, strides=(2, 2))
        x = self._stage(x, sites, 2, self.width // 2, train)
        x, sites = self._pool(x, sites, **TALL)
        x = self._stage(x, sites, 3, self.width, train)
        x = self._stage(x, sites, 4, self.width, train)
        x = self._conv(x, sites, "4_1", self.width, train, kernel_size=(2, 2), **TALL)
        sites = sites and sites.through((2, 2), **TALL)
        x = self._conv(x, sites, "4_2", self.width, train, kernel_size=(2, 2), padding=(0, 0))
        sites = sites and sites.through((2, 2))
        return masked.leave(x, sites, mask is not None)

    def _conv(
        self, x: Array, sites: Sites | None, name: str, features: int, train: bool, **window: Any
    ) -> Array:
        """Convolution, normalisation, ReLU."""
        conv = Conv(features, dtype=self.dtype, name=f"conv{name}", **window)
        x = conv(x, sites)
        if sites is not None:
            sites = sites.through(conv.kernel_size, conv.strides, conv.padding)
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"bn{name}")
        return nn.relu(norm(x, sites, train=train))

    def _pool(self, x: Array, sites: Sites | None, **window: Pair) -> tuple[Array, Sites | None]:
        y = max_pool(x, sites, window=(2, 2), **window)
        return y, sites and sites.through((2, 2), **window)

    def _stage(
        self, x: Array, sites: Sites | None, stage: int, features: int, train: bool
    ) -> Array:
        """Residual blocks; all stages but the last end in a convolution of their own."""
        common, again = (features, self.axis_name, self.dtype), self.remat != "none"
        blocks = [
            BasicBlock(*common, name=f"layer{stage}_{index}")
            for index in range(self.blocks[stage - 1])
        ]
        if x.shape[-1] != features:  # the first has a shortcut of its own
            x = recomputed(again, blocks.pop(0), x, sites, train=train) if blocks else x
        x = through(blocks, x, sites, again=again, train=train)
        self.sow("intermediates", f"layer{stage}", x)
        return x if stage == 4 else self._conv(x, sites, str(stage), features, train)
