"""Sizes of a network that cannot work, and what an encoder does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.runtime.errors import ConfigError

if TYPE_CHECKING:
    from rcmstr_jax.training.plan import ModelPlan

# Encoder -> blocks per stage as they are built by default, and what share of the width comes first.
_SHAPES: dict[str, tuple[tuple[int, ...], int, str]] = {
    "cnn": (ResNet.blocks, 16, "a sixteenth"),
    "compact": (CompactEncoder.blocks, 8, "an eighth"),
}


def check_model(model: ModelPlan) -> None:
    """Sizes of the network that cannot work."""
    width = model.image_width
    published, share, part = _SHAPES.get(model.encoder, ((), 1, ""))
    if width < 8 or width % 4:
        raise ConfigError(
            f"config.model.image_width={width} must be a multiple of 4, at least 8: "
            f"use {100 if model.convolutional else 128}, or {max(8, width // 4 * 4)}"
        )
    if model.width < share or model.width % share:
        raise ConfigError(
            f"config.model.width={model.width} must be a multiple of {share}, because the first "
            f"layer has {part} of it: use {max(share, round(model.width / share) * share)}"
        )
    counts = model.blocks if model.convolutional else ()
    if len(counts) != len(published) or any(count < 0 for count in counts):
        raise ConfigError(
            f"config.model.blocks={model.blocks} must be {len(published)} counts, one per stage: "
            f"for example {published}"
        )
    if model.encoder == "compact" and model.attention < 0:
        raise ConfigError(
            f"config.model.attention={model.attention} is out of range: set it at least 0"
        )
    if model.encoder != "cnn" and model.width % model.heads:
        raise ConfigError(
            f"config.model.width={model.width} is not divisible by the {model.heads} attention "
            f"heads: set config.model.heads to a divisor of it"
        )
    if not model.convolutional and model.rectifier:
        raise ConfigError(
            "config.model.rectifier=True belongs to the CNN: set it to False or "
            "config.model.encoder=cnn"
        )
    if model.rectify_first and not model.rectifier:
        raise ConfigError(
            "config.model.rectify_first=True without config.model.rectifier: there is nothing to "
            "do first; set config.model.rectifier=True"
        )
    if model.rectifier_from and not model.rectifier:
        raise ConfigError(
            f"config.model.rectifier_from={model.rectifier_from} without config.model.rectifier: "
            "set config.model.rectifier=True"
        )


def check_drop_path(field: str, rate: float, encoder: str) -> None:
    """Drop path is for encoders that are made of residual blocks with a branch each, all alike."""
    if rate and encoder != "vit":
        raise ConfigError(
            f"{field}={rate} belongs to a ViT, the encoder is {encoder!r}: set {field}=0"
        )
