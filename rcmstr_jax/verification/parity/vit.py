"""`vit_mim.npz`: the vision transformer, its pixel decoder and the reconstruction loss."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.interop.architectures import count, template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import PIXEL_DECODER, VIT
from rcmstr_jax.models.vit import PixelDecoder, VisionTransformer, sinusoid_positions
from rcmstr_jax.ssl.reconstruction import patch_targets, reconstruction_loss
from rcmstr_jax.verification.parity.fixture import Fixture, relative_error

FILE = "vit_mim.npz"
ENCODER_RULES = under("params/", "", VIT)
HEAD_RULES = under("params/", "", PIXEL_DECODER)


# Below this error the number of heads is beyond doubt; wrong ones differ by a tenth.
CLEAR = 1e-4


def check(fixture: Fixture) -> None:
    """Positions, features with and without mask, prediction, targets and both losses."""
    images = fixture.images("image")
    width, _, *sides = fixture.shape("sd/encoder.patch_embed.proj.weight")
    patch = (sides[0], sides[1])
    grid = (images.shape[1] // patch[0], images.shape[2] // patch[1])
    mask = jnp.asarray(fixture.array("mask").reshape(-1, *grid))
    fixture.compare("pos_embed", sinusoid_positions(grid[0] * grid[1], width)[None])

    encoder, variables = _encoder(fixture, images, width, patch)
    head: Any = PixelDecoder(
        hidden=fixture.shape("sd/pix_decoder.0.weight")[0],
        output=fixture.shape("sd/pix_decoder.4.weight")[0],
    )
    head_shapes = template(head, jnp.zeros((1, 1, 1, width)))
    head_variables = fixture.weights("sd/pix_decoder.", head_shapes, HEAD_RULES)

    def tokens(x: Array) -> Array:
        return x.reshape(x.shape[0], -1, x.shape[-1])

    fixture.compare("features_unmasked", tokens(encoder.apply(variables, images)[0]))
    features, filled = encoder.apply(variables, images, mask=mask)
    fixture.compare("features_masked", tokens(features))
    prediction = head.apply(head_variables, features, filled)
    fixture.compare("prediction", tokens(prediction))
    for normalize, name in ((True, "loss_normalized"), (False, "loss_raw")):
        target = patch_targets(images, patch, normalize=normalize)
        if normalize:
            fixture.compare("target_normalized", tokens(target))
        total, count = reconstruction_loss(prediction, target, mask)
        fixture.compare(name, total / count)


def _encoder(
    fixture: Fixture, images: Array, width: int, patch: tuple[int, int]
) -> tuple[Any, Any]:
    """The encoder with the number of heads that no array holds: the one whose features fit best."""
    names = fixture.names("sd/encoder.blocks.")
    depth = count(names, r"sd/encoder\.blocks\.(\d+)\.")
    ratio = fixture.shape("sd/encoder.blocks.0.mlp.fc1.weight")[0] / width
    common: dict[str, Any] = {"width": width, "depth": depth, "patch": patch, "mlp_ratio": ratio}
    shapes = template(VisionTransformer(heads=1, **common), jnp.zeros((1, *images.shape[1:])))
    variables = fixture.weights("sd/encoder.", shapes, ENCODER_RULES)
    golden = fixture.raw("features_unmasked").astype(np.float64)
    errors = {}
    for heads in (n for n in range(1, width + 1) if width % n == 0):
        encoder: Any = VisionTransformer(heads=heads, **common)
        features, _ = encoder.apply(variables, images[:1])
        ours = np.asarray(features, np.float64).reshape(1, -1, width)
        errors[heads] = relative_error(ours, golden[:1])
        if errors[heads] < CLEAR:
            break
    heads = min(errors, key=lambda n: (errors[n], n))
    return VisionTransformer(heads=heads, **common), variables
