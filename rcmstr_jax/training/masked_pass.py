"""What the masked pass has to predict; and, outside of training, images filled in by it."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.ssl.reconstruction import feature_targets, patch_targets, restore_images
from rcmstr_jax.training.plan import MaskPlan

Images = Float[Array, "batch height width 3"]
Mask = Bool[Array, "batch rows columns"]


def rectify(model: RCMSTR, variables: Any, images: Images) -> Images:
    """What the network has to reconstruct: the image, straightened where it has a rectifier."""
    return cast(Array, model.apply(variables, images, method="rectify"))


def masked_targets(
    plan: MaskPlan, model: RCMSTR, images: Images, momentum: Any
) -> Float[Array, "batch #rows columns values"]:
    """What is compared with the prediction: pixels, or what the momentum branch finds.

    Args:
      plan: of the mask.
      model: of both branches.
      images: whole, rectified.
      momentum: variables of the momentum branch; only features need them.
    """
    if plan.target == "pixels":
        return patch_targets(images, plan.patch, normalize=plan.normalize_targets)
    (whole, _), _ = model.apply(
        momentum, images, train=True, method="features", mutable=["batch_stats"]
    )
    return jax.lax.stop_gradient(feature_targets(whole, plan.grid[1]))


def predict_patches(
    model: RCMSTR, variables: Any, images: Images, mask: Mask
) -> Float[Array, "batch rows columns pixels"]:
    """Patches of rectified images, normalised by their own batch as in training; float32."""
    (patches, _), _ = model.apply(
        variables, images, mask, train=True, method="reconstruct", mutable=["batch_stats"]
    )
    return patches.astype(jnp.float32)


def fill_in(
    plan: MaskPlan, model: RCMSTR, variables: Any, images: Images, mask: Mask
) -> dict[str, Array]:
    """`target` (the rectified images), `mask`, and `reconstruction`: hidden patches as predicted.

    They take mean and deviation of the true ones, which the network never saw.
    """
    target = rectify(model, variables, images)
    patches = predict_patches(model, variables, target, mask)
    painted = restore_images(patches, target, plan.patch, plan.normalize_targets)
    hidden = mask.repeat(plan.patch[0], 1).repeat(plan.patch[1], 2)[..., None]
    return {"target": target, "mask": mask, "reconstruction": jnp.where(hidden, painted, target)}
