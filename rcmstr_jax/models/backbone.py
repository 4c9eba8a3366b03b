"""Rectifier and encoder without heads: what evaluation keeps of a pretrained network."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from rcmstr_jax.models.hierarchy import pool_frames


class Backbone(nn.Module):
    """Images to frames (METHOD.md 3); parameters have the names that `RCMSTR` gives them.

    Attributes:
      encoder: `(images, train=) -> (feature map (B, rows, T, D), _)`.
      rectifier: `images -> images`, frozen, or None.
    """

    encoder: nn.Module
    rectifier: nn.Module | None = None

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch frames dim"]:
        """Frames of images in [-1, 1]; `train` normalises with the statistics of the batch."""
        if self.rectifier is not None:
            images = jax.lax.stop_gradient(self.rectifier(images))
        features, _ = self.encoder(images, train=train)
        return pool_frames(features)
