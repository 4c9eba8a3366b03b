"""Rectifier and encoder: images to frames, what is left of a network when its heads are dropped."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from rcmstr_jax.models.hierarchy import pool_frames


def rectify(
    rectifier: nn.Module | None, images: Float[Array, "batch height width 3"]
) -> Float[Array, "batch height width 3"]:
    """Straightens images with a frozen rectifier; without one they pass unchanged."""
    return images if rectifier is None else jax.lax.stop_gradient(rectifier(images))


class Backbone(nn.Module):
    """What recognition and frozen evaluation use of a network; parameters are named as in `RCMSTR`.

    Attributes:
      encoder: `(images, train=) -> (feature map (B, rows, T, D), None)`.
      rectifier: `images -> images`, frozen, or None.
    """

    encoder: nn.Module
    rectifier: nn.Module | None = None

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch frames dim"]:
        """Frames of images in [-1, 1]; `train` normalises with the batch's own statistics."""
        features, _ = self.encoder(rectify(self.rectifier, images), train=train)
        return pool_frames(features)
