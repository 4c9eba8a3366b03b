"""Masks over the patches of an image (method section 5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, PRNGKeyArray

Grid = tuple[int, int]
"""Rows and columns of patches."""

KINDS = ("patch_block", "patch", "block")


def block_columns(columns: int, block_ratio: float) -> int:
    """Columns that the full-height block hides: `round(block_ratio * columns)`."""
    return round(block_ratio * columns)


def hidden_count(
    grid: Grid, mask_ratio: float = 0.7, block_ratio: float = 0.15, kind: str = "patch_block"
) -> int:
    """Number of patches that `draw_mask` hides in every image; static.

    For the kinds "patch" and "patch_block" it is `round(mask_ratio * patches)`. For "block" it is
    the patches of the block alone, so `mask_ratio` plays no part: to compare kinds at one ratio,
    give "block" a `block_ratio` equal to the others' `mask_ratio`.

    Raises:
      ValueError: unknown kind, a ratio outside its range, or a block larger than the mask.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
    for name, ratio in (("mask_ratio", mask_ratio), ("block_ratio", block_ratio)):
        if not 0 <= ratio <= 1:
            raise ValueError(f"{name}={ratio} is not between 0 and 1")
    rows, columns = grid
    block = 0 if kind == "patch" else block_columns(columns, block_ratio) * rows
    hidden = block if kind == "block" else round(mask_ratio * rows * columns)
    if block > hidden:
        raise ValueError(
            f"block_ratio={block_ratio} hides {block} of {rows * columns} patches, more than the "
            f"{hidden} of mask_ratio={mask_ratio}: lower block_ratio or raise mask_ratio"
        )
    return hidden


def visible_count(
    grid: Grid, mask_ratio: float = 0.7, block_ratio: float = 0.15, kind: str = "patch_block"
) -> int:
    """Number of patches that `draw_mask` leaves visible in every image; static.

    Raises:
      ValueError: see `hidden_count`; or the mask hides nothing, or everything.
    """
    rows, columns = grid
    patches, hidden = rows * columns, hidden_count(grid, mask_ratio, block_ratio, kind)
    if 0 < hidden < patches:
        return patches - hidden
    field, ratio, parts, default = "mask_ratio", mask_ratio, patches, 0.7
    if kind == "block":
        field, ratio, parts, default = "block_ratio", block_ratio, columns, 0.15
    raise ValueError(
        f"{field}={ratio} hides {hidden} of the {patches} patches of an image, and some must be "
        f"hidden and some visible: use a ratio between {1 / parts:.4g} and {1 - 1 / parts:.4g} "
        f"(the default is {default})"
    )


def draw_mask(
    key: PRNGKeyArray,
    batch: int,
    grid: Grid,
    *,
    mask_ratio: float = 0.7,
    block_ratio: float = 0.15,
    kind: str = "patch_block",
) -> Bool[Array, "batch rows columns"]:
    """Draws one mask per image; True = hidden.

    "patch_block": one block of full height at a uniformly drawn column, then uniformly drawn
    patches until exactly `round(mask_ratio * patches)` are hidden. "patch": the patches without the
    block. "block": the block without the patches (see `hidden_count`).

    Raises:
      ValueError: see `hidden_count`.
    """
    rows, columns = grid
    hidden = hidden_count(grid, mask_ratio, block_ratio, kind)
    block_key, patch_key = jax.random.split(key)
    order = jax.random.uniform(patch_key, (batch, rows, columns))
    if kind != "patch":
        width = block_columns(columns, block_ratio)
        start = jax.random.randint(block_key, (batch, 1), 0, columns - width + 1)
        column = jnp.arange(columns)[None]
        in_block = (column >= start) & (column < start + width)
        order = jnp.where(in_block[:, None, :], -1.0, order)
    # Ranks, not a threshold: equal draws must not hide one patch too many.
    ranks = jnp.argsort(jnp.argsort(rearrange(order, "b r c -> b (r c)"), axis=1), axis=1)
    return rearrange(ranks < hidden, "b (r c) -> b r c", r=rows)
