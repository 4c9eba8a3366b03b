"""What makes a picture of an encoder's maps: the module, its loss, its answer."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num, UInt8

from rcmstr_jax.data.dense.words import HIGH
from rcmstr_jax.models.dense.pyramid import resized
from rcmstr_jax.models.dense.segmentation import (
    PyramidSegmenter,
    TokenSegmenter,
    segmentation_loss,
)
from rcmstr_jax.models.dense.super_resolution import SCALE, SuperResolver, super_resolution_loss
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.step_inputs import images_to_float

Tree = Any
Maps = Sequence[Float[Array, "batch _ _ _"]]
Images = Num[Array, "batch height width 3"]
Scalar = Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class DenseHead(abc.ABC):
    """A head on an encoder's maps.

    Attributes:
      module: with parameters of its own, no statistics.
      image_size: that the encoder takes, (height, width).
    """

    module: nn.Module
    image_size: tuple[int, int]

    input_size: ClassVar[tuple[int, int] | None] = None
    """(height, width) of the images that the task is given; None: the encoder's."""

    @property
    def taken(self) -> tuple[int, int]:
        """(height, width) of the images that the task is given."""
        return self.input_size or self.image_size

    @property
    def sizes(self) -> dict[str, int]:
        """`width` and `depth` of `make_head`, as the module has them."""
        found = {name: getattr(self.module, name, 0) for name in ("width", "depth")}
        return {name: size for name, size in found.items() if size}

    def shown(self, images: Images) -> Float[Array, "batch rows columns 3"]:
        """What the encoder sees of images, in [-1, 1]."""
        return resized(images_to_float(images), self.image_size)

    def init(self, key: Key[Array, ""], maps: Maps) -> Tree:
        """Fresh parameters for maps of these shapes."""
        images = jnp.zeros((len(maps[0]), *self.taken, 3), jnp.uint8)
        return self.module.init(key, *self.arguments(images, maps))["params"]

    def apply(self, params: Tree, images: Images, maps: Maps) -> Float[Array, "batch ..."]:
        """What the module gives."""
        found: Any = self.module.apply({"params": params}, *self.arguments(images, maps))
        return found

    def arguments(self, images: Images, maps: Maps) -> tuple[Any, ...]:
        """What the module takes."""
        return (maps,)

    @abc.abstractmethod
    def loss(self, params: Tree, maps: Maps, batch: Mapping[str, Any]) -> tuple[Scalar, Scalar]:
        """Sum of the losses of images, and their number; `batch` holds `image` and `target`."""

    @abc.abstractmethod
    def answer(self, params: Tree, images: Images, maps: Maps) -> UInt8[Array, "batch ..."]:
        """The picture of every image, as the targets are."""


class SegmentationHead(DenseHead):
    """1 where a pixel belongs to a character."""

    def loss(self, params: Tree, maps: Maps, batch: Mapping[str, Any]) -> tuple[Scalar, Scalar]:
        return segmentation_loss(self.apply(params, batch["image"], maps), batch["target"])

    def answer(self, params: Tree, images: Images, maps: Maps) -> UInt8[Array, "batch ..."]:
        return (self.apply(params, images, maps) > 0).astype(jnp.uint8)


class SuperResolutionHead(DenseHead):
    """RGB of twice the height and width."""

    input_size: ClassVar[tuple[int, int] | None] = (HIGH[0] // SCALE, HIGH[1] // SCALE)

    def arguments(self, images: Images, maps: Maps) -> tuple[Any, ...]:
        return _in_unit(images), maps

    def loss(self, params: Tree, maps: Maps, batch: Mapping[str, Any]) -> tuple[Scalar, Scalar]:
        found = self.apply(params, batch["image"], maps)
        return super_resolution_loss(found, _in_unit(batch["target"]))

    def answer(self, params: Tree, images: Images, maps: Maps) -> UInt8[Array, "batch ..."]:
        found = jnp.rint(255 * self.apply(params, images, maps))
        return jnp.clip(found, 0, 255).astype(jnp.uint8)


def _in_unit(images: Images) -> Float[Array, "batch height width 3"]:
    return (images_to_float(images) + 1) / 2


def make_head(task: str, encoder: Encoder, *, width: int = 0, depth: int = 0) -> DenseHead:
    """The head of a task for an encoder.

    Args:
      task: "segmentation" or "super_resolution".
      encoder: a vision transformer gets transformer blocks, else maps are merged.
      width: channels; 0 takes the module's own.
      depth: blocks; 0 takes the module's own.

    Raises:
      ConfigError: a size that the head cannot have.
    """
    sizes: dict[str, Any] = {"width": width, "depth": depth}
    sizes = {name: value for name, value in sizes.items() if value}
    size = encoder.image_size
    if task == "super_resolution":
        return SuperResolutionHead(SuperResolver(**sizes), size)
    if encoder.origin["architecture"] != "vit":
        if depth:
            raise ConfigError(
                f"config.head.depth={depth}: a segmentation head for a convolutional encoder has no"
                " blocks: set it to 0"
            )
        return SegmentationHead(PyramidSegmenter(size=size, **sizes), size)
    if width % TokenSegmenter.heads:
        raise ConfigError(
            f"config.head.width={width} is not divisible by the {TokenSegmenter.heads} attention"
            f" heads of the segmentation head: use {width + 1}, or 0 for {TokenSegmenter.width}"
        )
    return SegmentationHead(TokenSegmenter(size=size, **sizes), size)
