"""The whole network of a branch: rectifier, encoder, projector, predictors, reconstruction."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from rcmstr_jax.models.backbone import Backbone, Frames, Images
from rcmstr_jax.models.hierarchy import pool_frames

Projected = Float[Array, "batch frames projected"]
Mask = Bool[Array, "batch rows columns"]
Vectors = dict[str, Float[Array, "batch _ dim"]]

MOMENTUM_PARTS = ("encoder", "projector", "predictors")
FROZEN_PARTS = ("rectifier",)


class RCMSTR(Backbone, kw_only=True):
    """Encoder with its heads (method section 3); both branches use the same module.

    Attributes:
      encoder, rectifier: as in `Backbone`; for the masked pass the encoder also takes `mask=`.
      projector: `(B, T, D) -> (B, T, D')`.
      predictors: `(B, T, D') -> {hierarchy: (B, n, dim)}`, L2-normalised.
      reconstruction: head of masked image modelling, or None for pure contrast.
      form: how a sparse encoder computes its masked pass; None for encoders without the choice.
      visible_count: visible patches in every mask, for a sparse encoder's packed form.
    """

    projector: nn.Module
    predictors: nn.Module
    reconstruction: nn.Module | None = None
    form: str | None = None
    visible_count: int | None = None

    def project(self, images: Images, **options: Any) -> Frames:
        """Frames after the projector, before alignment and pooling; options as of `encode`."""
        return self.project_frames(self.encode(images, **options))

    def project_frames(self, frames: Frames) -> Projected:
        """The projector alone, on frames of the encoder."""
        return self.projector(frames)

    def predict(self, frames: Projected) -> Vectors:
        """Normalised vectors of every hierarchy."""
        return self.predictors(frames)

    def reconstruct(
        self, images: Images, mask: Mask, *, train: bool = False, **options: Any
    ) -> tuple[Float[Array, "batch #rows columns values"], Frames]:
        """Masked pass: predicted patches (or features, in a single row where the encoder has one)
        and the encoder's frames of the masked image.

        Args:
          images: already rectified.
          mask: True where a patch is hidden.
          train: normalise with batch statistics.
          **options: of the encoder.

        Raises:
          ValueError: if the module was built without a reconstruction head.
        """
        if self.reconstruction is None:
            raise ValueError("this RCMSTR has no reconstruction head: build it with mim.enabled")
        if self.form is not None:
            options |= {"form": self.form, "visible_count": self.visible_count}
        features, filled = self.features(images, train=train, mask=mask, **options)
        frames = pool_frames(features)
        if filled is None:  # every patch holds a token, the learnt one where it is hidden
            return self.reconstruction(features), frames
        return self.reconstruction(frames, filled), frames

    def __call__(self, images: Images, mask: Mask | None = None, *, train: bool = False) -> Vectors:
        """Projects and predicts; with a mask also reconstructs (to create the parameters)."""
        if mask is not None:
            self.reconstruct(self.rectify(images), mask, train=train)
        return self.predict(self.project(images, train=train))
