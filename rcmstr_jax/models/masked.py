"""Entry to and exit from the masked pass of a convolutional encoder, the same for all of them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rcmstr_jax.models.forms import choose_form
from rcmstr_jax.models.layers import keep_active
from rcmstr_jax.models.packed import pack, unpack
from rcmstr_jax.models.sites import Sites
from rcmstr_jax.target import target_platform

FORMS = ("masked_dense", "packed", "auto", "dense")


def enter(
    images: Float[Array, "batch height width 3"],
    mask: Bool[Array, "batch rows columns"] | None,
    form: str,
    visible_count: int | None,
    *,
    width: int,
    dtype: Any = None,
) -> tuple[Float[Array, "batch *sites 3"], Sites | None]:
    """What the first layer is given: the images, packed or with zeros where patches are hidden.

    Args:
      images: values in [-1, 1]; height and width divisible by 4.
      mask: hidden patches (True = hidden), a grid that divides height and width; None keeps all.
      form: "masked_dense", "packed" or "auto", whose numbers are the same, or "dense", the
        ablation without sparsity: hidden patches are 0 (grey) and every layer computes
        everywhere, so that the mask's outline leaks.
      visible_count: number of visible patches in every image of the mask; static. The packed form
        needs it, "auto" stays with "masked_dense" without it.
      width: channels of the encoder's last stage, for the table of measured forms.
      dtype: arithmetic of the encoder; None is the type of the images.

    Returns:
      The images and their active sites; None where every layer computes everywhere.

    Raises:
      ValueError: images, mask or form do not fit.
    """
    if images.ndim != 4 or images.shape[1] % 4 or images.shape[2] % 4:
        raise ValueError(
            f"images: shape {images.shape}; want (batch, height, width, 3) with height and "
            "width divisible by 4"
        )
    if form not in FORMS:
        raise ValueError(f"form: {form!r} is unknown; use one of {', '.join(FORMS)}")
    if mask is None:
        return images, None
    if mask.ndim != 3 or mask.shape[0] != images.shape[0]:
        raise ValueError(
            f"mask: shape {mask.shape} does not fit images of shape {images.shape}; want "
            "(batch, rows, columns)"
        )
    if form == "packed" and visible_count is None:
        raise ValueError(
            "visible_count: None; form 'packed' needs the static number of visible patches per "
            "image (ssl.masking.visible_count), or use form 'masked_dense'"
        )
    if form == "auto" and visible_count is not None:
        share = visible_count / (mask.shape[1] * mask.shape[2])
        arithmetic = np.promote_types(images.dtype, np.float32) if dtype is None else dtype
        form = choose_form(target_platform(), jnp.dtype(arithmetic).name, width, share)
    size = (images.shape[1], images.shape[2])
    if form == "packed":
        sites = Sites.from_patches(mask, size, visible_count)
        return pack(images, sites), sites
    sites = Sites.from_patches(mask, size)
    images = keep_active(images, sites)
    return images, None if form == "dense" else sites


def leave(
    x: Float[Array, "batch *sites channels"], sites: Sites | None, masked: bool
) -> tuple[Float[Array, "batch height frames channels"], Bool[Array, "batch frames"] | None]:
    """The dense map and which of its frames are active; None where no image was masked.

    Args:
      x: result of the last layer.
      sites: its active sites; None computed everywhere, so that every frame is active.
      masked: whether the images came with a mask.
    """
    if sites is None:
        everywhere = jnp.ones((x.shape[0], x.shape[2]), bool)
        return x, everywhere if masked else None
    if sites.packed:
        x = unpack(x, sites)
    return x, jnp.any(sites.active, axis=1)
