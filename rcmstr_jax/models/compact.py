"""A compact convolutional encoder for processors: few multiplications, large products."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rcmstr_jax.models import masked
from rcmstr_jax.models.layers import BatchNorm, Conv
from rcmstr_jax.models.linear import LayerNorm
from rcmstr_jax.models.repeated import through
from rcmstr_jax.models.resnet import BasicBlock
from rcmstr_jax.models.sites import Pair, Sites
from rcmstr_jax.models.vit import Block, sinusoid_positions

HEIGHT = 32
_FOLD: dict[str, Pair] = {"kernel_size": (2, 2), "padding": (0, 1)}  # two rows to one


class CompactEncoder(nn.Module):
    """32 x W pixels become one row of W/4 + 1 frames, dense or masked, with one set of weights.

    Two convolutions of stride 2, residual blocks at 8, 4 and 2 rows, a 2x2 convolution that folds
    the last two rows (and adds a column, as the ResNet does), and transformer blocks over the
    frames. In a masked pass empty frames are seen by no other frame and stay empty.

    Attributes:
      width: channels of the last stage and of the frames; the stem has 1/8 and 1/4 of it, the
        stages 1/4, 1/2 and all. A multiple of 8 and of `heads`.
      blocks: residual blocks at 8, 4 and 2 rows.
      attention: transformer blocks over the frames.
      heads: attention heads.
      mlp_ratio: hidden width of their MLP over `width`.
      window: kernel of the layers that halve the height. Two rows do not overlap, so that maps of
        4 rows are as sparse as the mask of 8x4 patches; with three they are twice as full.
      axis_name: device axis over which batch statistics are shared; None keeps them local.
      dtype: arithmetic; None computes in the type of the input.
      remat: what is kept for the backward pass, see `models/remat.py`; the packed form then makes
        its index tables in every block.
    """

    width: int = 192
    blocks: tuple[int, ...] = (2, 3, 1)
    attention: int = 2
    heads: int = 4
    mlp_ratio: float = 2.0
    window: Pair = (2, 3)
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
    ) -> tuple[Float[Array, "batch 1 frames dim"], Bool[Array, "batch frames"] | None]:
        """Encodes images.

        Args:
          images: values in [-1, 1]; 32 pixels high, width divisible by 4.
          train: normalise with the batch's statistics instead of the running ones. The running
            ones move only where the caller makes `batch_stats` mutable.
          mask: hidden patches, see `masked.enter`; so are `form` and `visible_count`.
          form: "masked_dense", "packed", "auto" or "dense".
          visible_count: number of visible patches in every image of the mask.

        Returns:
          The feature map, (batch, 1, W/4 + 1, width) with zero where everything is hidden, and
          which frames are active, (batch, W/4 + 1), None without a mask.

        Raises:
          ValueError: width, image size, mask or form do not fit.
        """
        if self.width % 8 or self.width % self.heads:
            raise ValueError(
                f"width: {self.width} is not a multiple of 8 and of {self.heads} heads"
            )
        if images.ndim != 4 or images.shape[1] != HEIGHT:
            raise ValueError(
                f"images: shape {images.shape}; want (batch, {HEIGHT}, width, 3) with width "
                "divisible by 4"
            )
        x, sites = masked.enter(
            images, mask, form, visible_count, width=self.width, dtype=self.dtype
        )
        x, sites = self._halve(x, sites, "stem1", self.width // 8, train, columns=2)
        self.sow("intermediates", "layer0", x)
        x, sites = self._halve(x, sites, "stem2", self.width // 4, train, columns=2)
        for stage, count in enumerate(self.blocks, start=1):
            features = self.width * 2**stage // 8
            if stage > 1:
                x, sites = self._halve(x, sites, f"down{stage}", features, train, columns=1)
            common = (features, self.axis_name, self.dtype)
            blocks = [BasicBlock(*common, name=f"layer{stage}_{i}") for i in range(count)]
            x = through(blocks, x, sites, again=self.remat != "none", train=train)
            self.sow("intermediates", f"layer{stage}", x)
        x, sites = self._conv(x, sites, "fold", self.width, train, **_FOLD)
        x, active = masked.leave(x, sites, mask is not None)
        return self._mix(x[:, 0], active)[:, None], active

    def _halve(
        self, x: Array, sites: Sites | None, name: str, features: int, train: bool, columns: int
    ) -> tuple[Array, Sites | None]:
        """Half the height, and the width divided by `columns`."""
        padding = ((self.window[0] - 1) // 2, (self.window[1] - 1) // 2)
        window = {"kernel_size": self.window, "strides": (2, columns), "padding": padding}
        return self._conv(x, sites, name, features, train, **window)

    def _conv(
        self, x: Array, sites: Sites | None, name: str, features: int, train: bool, **window: Any
    ) -> tuple[Array, Sites | None]:
        """Convolution, normalisation, ReLU; and the sites after them."""
        conv = Conv(features, dtype=self.dtype, name=f"{name}_conv", **window)
        x = conv(x, sites)
        sites = sites and sites.through(conv.kernel_size, conv.strides, conv.padding)
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f"{name}_bn")
        return nn.relu(norm(x, sites, train=train)), sites

    def _mix(
        self, x: Float[Array, "batch frames width"], active: Bool[Array, "batch frames"] | None
    ) -> Float[Array, "batch frames width"]:
        """Lets frames see one another; empty ones stay zero."""
        if not self.attention:
            return x
        x = x + jnp.asarray(sinusoid_positions(x.shape[1], self.width), x.dtype)[None]
        common = (self.heads, self.mlp_ratio, self.dtype)
        blocks = [Block(*common, name=f"block_{index}") for index in range(self.attention)]
        x = through(blocks, x, active, again=self.remat != "none")
        # The two-pass variance, as in the ViT.
        norm = LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=self.dtype, name="norm")
        x = norm(x)
        return x if active is None else jnp.where(active[..., None], x, jnp.zeros((), x.dtype))
