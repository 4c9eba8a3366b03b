"""What a step draws: both views, permutations and masks, keyed by the global place of an image."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, Shaped
from ml_collections import ConfigDict

from rcmstr_jax.augment.views import make_view
from rcmstr_jax.ssl.masking import draw_mask
from rcmstr_jax.ssl.rearrange import draw_permutation
from rcmstr_jax.training.build import mask_grid

# Purposes folded into a step's key: what one draws never moves what another draws.
VIEW_Q, VIEW_K, REARRANGE, MASK, SHUFFLE = range(5)


def images_to_float(images: Shaped[Array, "batch height width channels"]) -> Any:
    """uint8 [0, 255] images as float32 in [-1, 1]; float images pass unchanged."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1.0


def _keys_by_index(key: Array, indices: Array) -> Array:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)


def draw_inputs(
    config: ConfigDict,
    key: PRNGKeyArray,
    images: Shaped[Array, "batch height width 3"],
    indices: Int[Array, " batch"],
) -> dict[str, Shaped[Array, "rows *rest"]]:
    """Both views, the permutation of every group, and the masks of a step.

    Everything is keyed by the global position of an image, so that nothing depends on how many
    devices share the batch.

    Args:
      config: a pretraining config.
      key: the step's key.
      images: uint8 or float `(B, 32, W, 3)`.
      indices: int `(B,)`, position of each image within the data.

    Returns:
      `view_q`, `view_k`; with rearrangement `permutation`; with MIM `mask`.
    """
    images = images_to_float(images)
    out = {"view_q": images, "view_k": images}
    if config.views.enabled:
        for name, purpose in (("view_q", VIEW_Q), ("view_k", VIEW_K)):
            out[name] = make_view(
                jax.random.fold_in(key, purpose),
                images,
                indices=indices,
                max_ops=config.views.max_ops,
            )
    if config.rearrange.enabled:
        r = config.rearrange
        group_keys = _keys_by_index(
            jax.random.fold_in(key, REARRANGE),
            jnp.zeros_like(indices[:: r.group]) if r.shared_permutation else indices[:: r.group],
        )
        out["permutation"] = jax.vmap(
            lambda k: draw_permutation(k, 1, group_size=r.group, blocks=r.blocks)[0]
        )(group_keys)
    if config.mim.enabled:
        m, grid = config.mim, mask_grid(config)
        image_keys = _keys_by_index(jax.random.fold_in(key, MASK), indices)
        out["mask"] = jax.vmap(
            lambda k: draw_mask(
                k,
                1,
                grid=grid,
                mask_ratio=m.mask_ratio,
                block_ratio=m.block_ratio,
                kind=m.kind,
            )[0]
        )(image_keys)
    return out
