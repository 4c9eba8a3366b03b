"""Reconstruction of hidden patches: targets, the head of the CNN, loss (method section 5)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float

Images = Float[Array, "batch height width channels"]
Patches = Float[Array, "batch rows columns pixels"]

Patch = tuple[int, int]

DEVIATION_FLOOR = 1e-6


def patchify(images: Images, patch: Patch) -> Patches:
    """Cuts images into patches; the last axis runs over (patch row, patch column, channel).

    Raises:
      ValueError: the patch does not divide the image.
    """
    height, width = images.shape[1:3]
    high, wide = patch
    if height % high or width % wide:
        raise ValueError(f"patch: {high} x {wide} does not divide images of {height} x {width}")
    return rearrange(images, "b (r h) (c w) x -> b r c (h w x)", h=high, w=wide)


def unpatchify(patches: Patches, patch: Patch) -> Images:
    """Puts patches back into images; the inverse of `patchify`."""
    pixels = patches.shape[-1]
    high, wide = patch
    if pixels % (high * wide):
        raise ValueError(f"patch: {pixels} values do not fill patches of {high} x {wide} pixels")
    return rearrange(patches, "b r c (h w x) -> b (r h) (c w) x", h=high, w=wide)


def patch_moments(images: Images, patch: Patch) -> tuple[Patches, Patches]:
    """Mean and deviation (unbiased, + 1e-6) of every patch and channel, repeated for every pixel.

    Args:
      images: values in [-1, 1]; the moments are those of the pixels mapped to [0, 1].
      patch: height and width of a patch in pixels.
    """
    area = patch[0] * patch[1]
    split = rearrange(patchify((images + 1) / 2, patch), "b r c (hw x) -> b r c hw x", hw=area)
    mean = jnp.mean(split, axis=3)
    deviation = jnp.std(split, axis=3, ddof=1) + DEVIATION_FLOOR
    return (
        repeat(mean, "b r c x -> b r c (hw x)", hw=area),
        repeat(deviation, "b r c x -> b r c (hw x)", hw=area),
    )


def patch_targets(images: Images, patch: Patch, normalize: bool = True) -> Patches:
    """What a head has to predict: the pixels of every patch, in [0, 1].

    Args:
      images: values in [-1, 1].
      patch: height and width of a patch in pixels.
      normalize: subtract each patch's mean and divide by its deviation, channel by channel.
    """
    patches = patchify((images + 1) / 2, patch)
    if not normalize:
        return patches
    mean, deviation = patch_moments(images, patch)
    return (patches - mean) / deviation


def restore_images(
    prediction: Patches, images: Images, patch: Patch, normalized: bool = True
) -> Images:
    """Turns predictions back into images in [-1, 1], for pictures.

    Normalised predictions take mean and deviation of the true patch, which the model never saw.
    """
    if normalized:
        mean, deviation = patch_moments(images, patch)
        prediction = prediction * deviation + mean
    return jnp.clip(unpatchify(prediction, patch) * 2 - 1, -1, 1)


def feature_targets(
    features: Float[Array, "batch rows frames width"], columns: int
) -> Float[Array, "batch rows columns width"]:
    """Features of another network as a target: of every place, with mean 0 and deviation 1.

    Args:
      features: of whole images. A convolutional encoder has one row, and a frame more than there
        are columns of patches: a column takes the mean of the two frames that see it, those that
        `CnnReconstructionHead` predicts it from.
      columns: of patches.

    Returns:
      In float32 at least.
    """
    features = features.astype(np.promote_types(np.float32, features.dtype))
    if features.shape[2] == columns + 1:
        features = (features[:, :, :-1] + features[:, :, 1:]) / 2
    centred = features - features.mean(-1, keepdims=True)
    return centred / (features.std(-1, keepdims=True) + DEVIATION_FLOOR)


def reconstruction_loss(
    prediction: Float[Array, "batch #rows columns values"],
    target: Float[Array, "batch #rows columns values"],
    mask: Bool[Array, "batch rows columns"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Squared error over hidden patches.

    A single row, as the features of a convolutional encoder have it, stands for all: a column
    counts once for each of its hidden patches.

    Returns:
      The sum of squared errors and the number of values it runs over: `sum / count` is the mean
      squared error. Both in float32 at least.
    """
    precise = np.promote_types(np.float32, prediction.dtype)
    error = jnp.square(prediction.astype(precise) - target.astype(precise))
    total = jnp.sum(jnp.where(mask[..., None], error, 0))
    return total, (jnp.sum(mask, dtype=jnp.int32) * target.shape[-1]).astype(precise)


class CnnReconstructionHead(nn.Module):
    """One 1x2 convolution over the frames and one linear map to a column of patches.

    The convolution takes the T = W/4 + 1 frames of the ResNet to W/4 columns. Frames that hold
    nothing are replaced by a learnt mask embedding first.

    Attributes:
      rows: patches in a column.
      output: numbers per patch, 3 x patch area for pixels.
      dtype: arithmetic; None computes in the type of the input, in float32 at least.
    """

    rows: int = 4
    output: int = 96
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        frames: Float[Array, "batch frames width"],
        frame_active: Bool[Array, "batch frames"] | None = None,
    ) -> Patches:
        """Predicts all patches, (batch, rows, T - 1, output)."""
        width = frames.shape[-1]
        token = self.param("mask_embedding", nn.initializers.normal(0.02), (width,), jnp.float32)
        if frame_active is not None:
            frames = jnp.where(
                frame_active[..., None], frames, token.astype(frames.dtype)[None, None]
            )
        pairs = jnp.concatenate([frames[:, :-1], frames[:, 1:]], axis=-1)
        dtype = self.dtype or np.promote_types(pairs.dtype, np.float32)
        x = nn.Dense(width, dtype=dtype, name="conv")(pairs)
        x = nn.Dense(self.rows * self.output, dtype=dtype, name="linear")(x)
        return rearrange(x, "b c (r pixels) -> b r c pixels", r=self.rows)
