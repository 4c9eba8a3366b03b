"""Configuration to modules: the only file of `models/` that knows configs."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.hierarchy import MlpProjector, Predictors
from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.models.vit import VIT_SIZES, PixelDecoder, VisionTransformer
from rcmstr_jax.ssl.masking import visible_count
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.ssl.reconstruction import CnnReconstructionHead

IMAGE_HEIGHT = 32
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def patch_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width in pixels of a maskable patch: 8×4 for the CNN, 4×4 for the ViT."""
    return (8, 4) if config.model.encoder == "cnn" else (4, 4)


def mask_grid(config: ConfigDict) -> tuple[int, int]:
    """Rows and columns of patches."""
    height, width = patch_size(config)
    return IMAGE_HEIGHT // height, config.model.image_width // width


def visible_patches(config: ConfigDict) -> int:
    """Patches of an image that stay visible; the same for every mask that the config draws."""
    mim = config.mim
    return visible_count(mask_grid(config), mim.mask_ratio, mim.block_ratio, mim.kind)


def image_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of the images in pixels."""
    return IMAGE_HEIGHT, config.model.image_width


def frame_count(config: ConfigDict) -> int:
    """Frames per image: W/4 + 1 for the CNN, W/4 for the ViT (method, words and shapes)."""
    return config.model.image_width // 4 + (config.model.encoder == "cnn")


def keys_per_image(config: ConfigDict) -> dict[str, int]:
    """How many keys an image adds to the queue of each hierarchy."""
    return {"frame": frame_count(config), "subword": config.contrast.subwords, "word": 1}


def contrast_options(config: ConfigDict) -> ContrastOptions:
    """The contrast section as the options of `ssl.objective`."""
    c = config.contrast
    return ContrastOptions(
        hierarchies=tuple(c.hierarchies),
        pairs=tuple(c.pairs),
        temperature=c.temperature,
        relation_temperature=c.relation_temperature,
        alpha=c.alpha,
        beta=c.beta,
        relation=c.relation,
        kl_reduction=c.kl_reduction,
        chunk=c.chunk,
        product_dtype=jnp.bfloat16 if config.model.dtype == "bfloat16" else None,
    )


def compute_dtype(config: ConfigDict) -> Any:
    """The compute dtype, None for float32 (so that float64 inputs stay float64 in tests)."""
    return None if config.model.dtype == "float32" else DTYPES[config.model.dtype]


def build_encoder(config: ConfigDict, axis_name: str | None = None) -> nn.Module:
    """The encoder alone, as evaluation with a frozen representation uses it."""
    m, dtype = config.model, compute_dtype(config)
    if m.encoder == "cnn":
        return ResNet(
            width=m.width,
            blocks=tuple(m.blocks),
            axis_name=axis_name,
            dtype=dtype,
        )
    if m.encoder == "vit":
        width, depth, heads = VIT_SIZES[m.size]
        return VisionTransformer(
            width=m.width or width, depth=m.depth or depth, heads=m.heads or heads, dtype=dtype
        )
    raise ValueError(f"model.encoder={m.encoder!r}: use 'cnn' or 'vit'")


def build_model(config: ConfigDict, axis_name: str | None = None) -> RCMSTR:
    """The network of a branch.

    Args:
      config: a pretraining config.
      axis_name: device axis over which batch statistics are synchronised; None keeps them local.

    Raises:
      ValueError: on an unknown encoder, size or projector.
    """
    m, dtype = config.model, compute_dtype(config)
    projector: nn.Module
    if m.projector == "bilstm":
        projector = BiLSTMProjector(hidden=m.projector_hidden, dtype=dtype)
    elif m.projector == "mlp":
        projector = MlpProjector(hidden=m.projector_hidden, output=m.projector_hidden, dtype=dtype)
    else:
        raise ValueError(f"model.projector={m.projector!r}: use 'bilstm' or 'mlp'")
    height, width = patch_size(config)
    head: nn.Module | None = None
    if config.mim.enabled:
        if m.encoder == "cnn":
            head = CnnReconstructionHead(
                rows=mask_grid(config)[0], patch=(height, width), dtype=dtype
            )
        else:
            head = PixelDecoder(output=height * width * 3, dtype=dtype)
    return RCMSTR(
        encoder=build_encoder(config, axis_name),
        projector=projector,
        predictors=Predictors(
            dim=m.predict_dim,
            hierarchies=contrast_options(config).levels,
            subwords=config.contrast.subwords,
            dtype=dtype,
        ),
        reconstruction=head,
        rectifier=TpsRectifier(size=image_size(config)) if m.rectifier else None,
        form=config.mim.form if m.encoder == "cnn" else None,
        visible_count=visible_patches(config) if config.mim.enabled else None,
    )
