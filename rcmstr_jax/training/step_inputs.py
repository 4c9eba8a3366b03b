"""What a step draws: both views, permutations and masks, keyed by the global place of an image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from rcmstr_jax.augment.draws import image_keys
from rcmstr_jax.augment.views import make_view
from rcmstr_jax.ssl.masking import draw_mask
from rcmstr_jax.ssl.rearrange import draw_permutation
from rcmstr_jax.training.plan import MaskPlan, PretrainPlan, RearrangePlan

# Purposes folded into a step's key: what one draws never moves what another draws.
VIEW_Q, VIEW_K, REARRANGE, MASK, SHUFFLE, FRAME_KEYS, DROP_PATH = range(7)
# Place of the masked pass in what is drawn for those that drop branches; plain, rearranged, masked.
MASKED = 2


def images_to_float(
    images: Shaped[Array | np.ndarray, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """uint8 [0, 255] images as float32 in [-1, 1]; float images pass unchanged."""
    images = jnp.asarray(images)
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1.0


def draw_inputs(
    plan: PretrainPlan,
    key: PRNGKeyArray,
    images: Shaped[Array, "batch height width 3"],
    indices: Int[Array, " batch"],
) -> dict[str, Shaped[Array, "rows *rest"]]:
    """Both views, the permutation of every group, and the masks of a step.

    Everything is keyed by the global position of an image, so that nothing depends on how many
    devices share the batch.

    Args:
      indices: int `(B,)`, position of each image within the data.

    Returns:
      `view_q`, `view_k`; with rearrangement `permutation`; with MIM `mask`; with drop path
      `branches` (B, passes, depth, 2).
    """
    images = images_to_float(images)
    out = {"view_q": images, "view_k": images}
    if plan.views is not None:
        for name, purpose in (("view_q", VIEW_Q), ("view_k", VIEW_K)):
            view_key = jax.random.fold_in(key, purpose)
            out[name] = make_view(view_key, images, indices=indices, **vars(plan.views))
    if plan.rearrange is not None:
        group_key = jax.random.fold_in(key, REARRANGE)
        out["permutation"] = draw_permutations(plan.rearrange, group_key, indices)
    if plan.mask is not None:
        out["mask"] = draw_masks(plan.mask, jax.random.fold_in(key, MASK), indices)
    if plan.drop_path:
        drop_key = jax.random.fold_in(key, DROP_PATH)
        keys = jax.vmap(lambda i: jax.random.fold_in(drop_key, i))(jnp.arange(3))
        drawn = jax.vmap(lambda k: draw_branches(k, indices, plan.model.depth, plan.drop_path))
        out["branches"] = jnp.moveaxis(drawn(keys), 0, 1)
    return out


def draw_branches(
    key: PRNGKeyArray, indices: Int[Array, " batch"], depth: int, rate: float
) -> Float[Array, "batch depth 2"]:
    """Drop path: what attention and MLP of every block are multiplied by, keyed by the image.

    A branch is dropped (0) with a probability that grows linearly from 0 in the first block to
    `rate` in the last; those that stay are scaled so that the mean is as without.
    """
    kept = (1 - rate * jnp.linspace(0, 1, depth, dtype=jnp.float32))[:, None]
    keys = image_keys(key, len(indices), indices)
    drawn = jax.vmap(lambda k: jax.random.uniform(k, (depth, 2), jnp.float32))(keys)
    return jnp.where(drawn < kept[None], 1 / kept[None], jnp.zeros((), jnp.float32))


def draw_permutations(
    plan: RearrangePlan, key: PRNGKeyArray, indices: Int[Array, " batch"]
) -> Int[Array, "groups blocks"]:
    """The permutation of every group, keyed by the place of its first image (METHOD.md 2)."""
    firsts = indices[:: plan.group]
    numbers = jnp.zeros_like(firsts) if plan.shared_permutation else firsts
    group_keys = image_keys(key, len(firsts), numbers)
    return jax.vmap(lambda k: draw_permutation(k, 1, group_size=plan.group, blocks=plan.blocks)[0])(
        group_keys
    )


def draw_masks(
    plan: MaskPlan, key: PRNGKeyArray, indices: Int[Array, " batch"]
) -> Shaped[Array, "batch rows columns"]:
    """The mask of every image, keyed by its place (METHOD.md 5); True = hidden."""
    return jax.vmap(
        lambda k: draw_mask(
            k,
            1,
            grid=plan.grid,
            mask_ratio=plan.mask_ratio,
            block_ratio=plan.block_ratio,
            kind=plan.kind,
        )[0]
    )(image_keys(key, len(indices), indices))
