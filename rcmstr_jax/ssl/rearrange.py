"""Relational rearrangement: images cut into blocks, shuffled within a group, and put back.

Method section 2. The blocks of a group of images are exchanged before the encoder, so that it sees
neighbourhoods no lexicon holds; after the projector the frames are aligned again with the content
they came from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int


def draw_permutation(
    key: Array, groups: int, *, group_size: int = 2, blocks: int = 2, shared: bool = False
) -> Int[Array, "groups blocks_of_group"]:
    """Draws which block lands where, uniformly over all orders.

    Args:
      key: typed or raw PRNG key.
      groups: number of groups of images.
      group_size: images per group (G).
      blocks: vertical blocks per image (P).
      shared: one permutation for every group, as the published ancestor draws it.

    Returns:
      int32 `(groups, group_size * blocks)`; place `i` of a group receives block `permutation[i]`,
      blocks counted from left to right, image by image.
    """
    count = group_size * blocks
    if shared:
        one = jax.random.permutation(key, count)
        return jnp.broadcast_to(one, (groups, count)).astype(jnp.int32)
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


def _to_blocks(x: Array, axis: int, group_size: int, blocks: int) -> Array:
    """Moves blocks along `axis` into (groups, group_size * blocks, ...) with `axis` last."""
    x = jnp.moveaxis(x, axis, -1)
    return rearrange(x, "(n g) ... (p w) -> n (g p) ... w", g=group_size, p=blocks)


def _from_blocks(x: Array, axis: int, group_size: int, blocks: int) -> Array:
    x = rearrange(x, "n (g p) ... w -> (n g) ... (p w)", g=group_size, p=blocks)
    return jnp.moveaxis(x, -1, axis)


def _permute(x: Array, permutation: Array, axis: int, group_size: int, blocks: int) -> Array:
    cut = _to_blocks(x, axis, group_size, blocks)
    index = permutation.reshape(permutation.shape + (1,) * (cut.ndim - 2))
    return _from_blocks(jnp.take_along_axis(cut, index, axis=1), axis, group_size, blocks)


def rearrange_images(
    images: Float[Array, "batch height width channels"],
    permutation: Int[Array, "groups blocks_of_group"],
    *,
    blocks: int = 2,
) -> Float[Array, "batch height width channels"]:
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
    return _permute(images, permutation, 2, group_size, blocks)


def align_frames(
    frames: Float[Array, "batch frames dim"],
    permutation: Int[Array, "groups blocks_of_group"],
    *,
    blocks: int = 2,
) -> Float[Array, "batch frames dim"]:
    """Puts the frames of every block back where `rearrange_images` took the block from.

    Args:
      frames: encoded rearranged images; the number of frames must be divisible by `blocks`.
      permutation: the one the images were rearranged with.
      blocks: vertical blocks per image (P).

    Raises:
      ValueError: if batch or frames cannot be divided.
    """
    group_size = permutation.shape[1] // blocks
    _check(frames.shape[0], frames.shape[1], "frame count", group_size, blocks)
    return _permute(frames, jnp.argsort(permutation, axis=1), 1, group_size, blocks)
