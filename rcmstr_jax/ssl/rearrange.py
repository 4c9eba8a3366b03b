"""Relational rearrangement: images cut into blocks, shuffled within a group, and put back.

Method section 2. The blocks of a group of images are exchanged before the encoder, so that it sees
neighbourhoods no lexicon holds; after the projector the frames are aligned again with the content
they came from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray

Images = Float[Array, "batch height width channels"]
Frames = Float[Array, "batch frames dim"]
Permutation = Int[Array, "groups blocks_of_group"]


def draw_permutation(
    key: PRNGKeyArray, groups: int, *, group_size: int = 2, blocks: int = 2
) -> Permutation:
    """Draws which block lands where, uniformly over all orders.

    Args:
      group_size: images per group (G).
      blocks: vertical blocks per image (P).

    Returns:
      int32 `(groups, group_size * blocks)`; place `i` of a group receives block `permutation[i]`,
      blocks counted from left to right, image by image.
    """
    count = group_size * blocks
    keys = jax.random.split(key, groups)
    return jax.vmap(lambda k: jax.random.permutation(k, count))(keys).astype(jnp.int32)


def _check(batch: int, length: int, what: str, group_size: int, blocks: int) -> None:
    if batch % group_size:
        raise ValueError(
            f"rearrangement takes images in groups of {group_size}; the batch of {batch} is not "
            f"divisible: change the batch size or rearrange.group"
        )
    if length % blocks:
        raise ValueError(
            f"rearrangement cuts into {blocks} equal blocks; {what} {length} is not divisible: "
            f"change the image width or rearrange.blocks"
        )


def _permute(x: Array, permutation: Array, whole: str, cut: str, g: int, p: int) -> Array:
    """Exchanges the p blocks of each of g images: patterns `whole` and, blocks second, `cut`."""
    x = rearrange(x, f"{whole} -> {cut}", g=g, p=p)
    index = jnp.expand_dims(permutation, range(2, x.ndim))
    return rearrange(jnp.take_along_axis(x, index, axis=1), f"{cut} -> {whole}", g=g, p=p)


def rearrange_images(images: Images, permutation: Permutation, *, blocks: int = 2) -> Images:
    """Exchanges the vertical blocks of each group of images.

    Args:
      images: consecutive images form a group.
      permutation: from `draw_permutation`.
      blocks: vertical blocks per image (P); the width must be divisible by it.

    Raises:
      ValueError: if batch or width cannot be divided.
    """
    group_size = permutation.shape[1] // blocks
    _check(images.shape[0], images.shape[2], "width", group_size, blocks)
    whole, cut = "(n g) h (p w) c", "n (g p) h w c"
    return _permute(images, permutation, whole, cut, group_size, blocks)


def align_frames(frames: Frames, permutation: Permutation, *, blocks: int = 2) -> Frames:
    """Puts the frames of every block back where `rearrange_images` took the block from.

    Args:
      frames: encoded rearranged images; the number of frames must be divisible by `blocks`.

    Raises:
      ValueError: if batch or frames cannot be divided.
    """
    group_size = permutation.shape[1] // blocks
    _check(frames.shape[0], frames.shape[1], "frame count", group_size, blocks)
    back, whole, cut = jnp.argsort(permutation, axis=1), "(n g) (p t) d", "n (g p) t d"
    return _permute(frames, back, whole, cut, group_size, blocks)
