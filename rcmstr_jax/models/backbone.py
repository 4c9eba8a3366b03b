"""Rectifier and encoder: images to frames, what is left of a network when its heads are dropped."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from rcmstr_jax.models.hierarchy import pool_frames
from rcmstr_jax.models.remat import recomputed

Images = Float[Array, "batch height width 3"]
Frames = Float[Array, "batch frames dim"]


class Backbone(nn.Module):
    """What recognition and frozen evaluation use of a network; parameters are named as in `RCMSTR`.

    Attributes:
      encoder: `(images, train=) -> (feature map (B, rows, T, D), filled frames or None)`.
      rectifier: `images -> images`, frozen, or None.
    """

    encoder: nn.Module
    rectifier: nn.Module | None = None

    def rectify(self, images: Images) -> Images:
        """Straightens images with the frozen rectifier; without one they pass unchanged."""
        return images if self.rectifier is None else jax.lax.stop_gradient(self.rectifier(images))

    def encode(
        self, images: Images, *, train: bool = False, rectified: bool = False, **options: Any
    ) -> Frames:
        """Frames of images in [-1, 1]; `train` normalises with the batch's own statistics.

        Images that are `rectified` already go to the encoder as they are; so do other options.
        """
        images = images if rectified else self.rectify(images)
        return pool_frames(self.features(images, train=train, **options)[0])

    def features(self, images: Images, **options: Any) -> Any:
        """What the encoder gives for rectified images; `remat="full"` keeps these alone."""
        again = getattr(self.encoder, "remat", "none") == "full"
        return recomputed(again, self.encoder, images, **options)
