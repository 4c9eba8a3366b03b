"""Frames, sub-words and words: pooling, predictors and the per-frame MLP projector.

RCMSTR section 3.3 (method section 3): an image is described at three hierarchies. Frames are the
encoder's columns, sub-words are adaptive averages of neighbouring frames, the word is their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rcmstr_jax.models.linear import Linear, TypedModule
from rcmstr_jax.ssl.objective import HIERARCHIES as HIERARCHIES

Frames = Float[Array, "batch frames dim"]


def pool_frames(feature_map: Float[Array, "batch rows frames dim"]) -> Frames:
    """Averages a feature map over its height: one vector per column, from left to right.

    Hidden rows of a masked map count as zeros; 32 pixels of height leave the ResNet a single row.
    """
    return jnp.mean(feature_map, axis=1)


def pooling_windows(frames: int, bins: int) -> tuple[tuple[int, int], ...]:
    """Returns the half-open window of every bin: floor(i T / S) … ceil((i + 1) T / S).

    Raises:
      ValueError: if there are fewer frames than bins, so that one frame would be several words.
    """
    if not 1 <= bins <= frames:
        raise ValueError(
            f"bins={bins} does not fit frames={frames}: a sub-word needs at least one frame, "
            f"so give 1 <= bins <= {frames} or a wider image"
        )
    return tuple((i * frames // bins, -(-(i + 1) * frames // bins)) for i in range(bins))


def adaptive_average_pool(x: Frames, bins: int) -> Float[Array, "batch bins dim"]:
    """Averages neighbouring frames into `bins` windows, which overlap where T % bins != 0.

    Raises:
      ValueError: if bins is not within 1 … T.
    """
    windows = pooling_windows(x.shape[1], bins)
    # Slices, not a product with an averaging matrix: accelerators multiply in reduced precision.
    return jnp.stack([jnp.mean(x[:, start:stop], axis=1) for start, stop in windows], axis=1)


def l2_normalize(x: Float[Array, "*batch dim"], epsilon: float = 1e-12) -> Float[Array, "*batch d"]:
    """Divides by max(norm, epsilon) along the last axis; the gradient at zero is finite."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, jnp.asarray(epsilon, x.dtype) ** 2))


class Predictors(TypedModule):
    """One linear map per hierarchy, then L2 normalisation (method section 3).

    Attributes:
      dim: length of the vectors that are contrasted.
      hierarchies: which of `HIERARCHIES` exist; only these have parameters.
      subwords: number S of sub-words.
      dtype: dtype of the linear maps; the vectors are normalised in float32 at least.
    """

    dim: int = 128
    hierarchies: Sequence[str] = HIERARCHIES
    subwords: int = 4

    @nn.compact
    def __call__(
        self, frames: Frames, *, normalize: bool = True
    ) -> dict[str, Float[Array, "batch _ output"]]:
        """Returns {hierarchy: (B, n, dim)} with n = T, S, 1; `normalize=False` skips the norm.

        Raises:
          ValueError: if `hierarchies` names something else, or has more sub-words than frames.
        """
        unknown = [name for name in self.hierarchies if name not in HIERARCHIES]
        if unknown:
            raise ValueError(
                f"hierarchies={tuple(self.hierarchies)} must be chosen from {HIERARCHIES}"
            )
        vectors = {}
        for name in self.hierarchies:
            pooled = frames
            if name != "frame":
                pooled = adaptive_average_pool(frames, self.subwords if name == "subword" else 1)
            y = Linear(self.dim, **self.dtypes, name=name)(pooled)
            y = y.astype(np.promote_types(y.dtype, np.float32))
            vectors[name] = l2_normalize(y) if normalize else y
        return vectors


class MlpProjector(TypedModule):
    """Linear maps with exact GELU between them, applied to every frame alone.

    The default projector of the ViT (our choice, method section 3): frames of a ViT have already
    seen one another. There is no batch normalisation, so nothing can leak between devices.

    Attributes:
      hidden: width of the hidden layers.
      output: width of the result.
      layers: number of linear maps.
    """

    hidden: int = 256
    output: int = 256
    layers: int = 3

    @nn.compact
    def __call__(self, frames: Frames) -> Float[Array, "b frames output"]:
        if self.layers < 1:
            raise ValueError(f"layers={self.layers}: an MLP projector needs at least one layer")
        for i in range(self.layers):
            width = self.output if i == self.layers - 1 else self.hidden
            frames = Linear(width, **self.dtypes, name=f"linear_{i}")(frames)
            if i < self.layers - 1:
                frames = nn.gelu(frames, approximate=False)
        return frames
