"""Rendered words: the mask of their letters, or the damage that a camera did to them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.data.decode import decode_image, resize_image
from rcmstr_jax.data.dense.words import HEIGHT, HIGH, LOW, WIDTH, DenseWord, text_mask
from rcmstr_jax.data.records import check_index
from rcmstr_jax.data.synthetic import degrade
from rcmstr_jax.data.synthetic.fonts import Face
from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.data.synthetic.render import Scene, WordRenderer


class _Rendered:
    """Rendered words; word i depends on (seed, i) and the options alone.

    Attributes:
      name: the spec.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        length: int,
        options: RenderOptions,
        *,
        faces: Sequence[Face] | None = None,
    ) -> None:
        self.name = name
        self._given = (seed, length, options)
        self._also: dict[str, Any] = {}  # what else a copy is made with
        self._renderer = WordRenderer(self._drawn(options), faces=faces)

    def _drawn(self, options: RenderOptions) -> RenderOptions:
        """What words are drawn with."""
        return options

    def __len__(self) -> int:
        return self._given[1]

    def compose(self, index: int) -> tuple[np.random.Generator, Scene]:
        """The scene of a word, and the numbers that its photograph is taken with."""
        return self._renderer.compose(self._given[0], check_index(int(index), len(self), self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        faces = tuple(self._renderer.fonts.faces)
        rebuild = functools.partial(type(self), faces=faces, **self._also)
        return rebuild, (self.name, *self._given)


class RenderedMasks(_Rendered):
    """Words with the mask of their letters.

    The image is the one that `SyntheticSource` gives for the same seed, index and options.
    Neighbouring text is text; outlines and shadows are background.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        length: int,
        options: RenderOptions,
        *,
        image_width: int = WIDTH,
        faces: Sequence[Face] | None = None,
    ) -> None:
        super().__init__(name, seed, length, options, faces=faces)
        self._also = {"image_width": image_width}

    def __getitem__(self, index: int) -> DenseWord:
        rng, scene = self.compose(index)
        size = (HEIGHT, self._also["image_width"])
        image = decode_image(self._renderer.photograph(rng, scene), size)
        return DenseWord(image, text_mask(scene.coverage("letters", size)), scene.text)


class RenderedPairs(_Rendered):
    """Clean words and their damaged halves, 32 x 128 and 16 x 64 pixels."""

    def _drawn(self, options: RenderOptions) -> RenderOptions:
        # A smaller crop would have to be enlarged to be the truth.
        least = max(HIGH[0], options.min_height)
        return dataclasses.replace(
            options, min_height=least, max_height=max(least, options.max_height)
        )

    def __getitem__(self, index: int) -> DenseWord:
        rng, scene = self.compose(index)
        clean = resize_image(np.clip(scene.picture, 0, 255).astype(np.uint8), HIGH)
        return DenseWord(damage(rng, clean, self._given[2], scene.density), clean, scene.text)


def damage(
    rng: np.random.Generator,
    clean: UInt8[np.ndarray, "32 128 3"],
    options: RenderOptions,
    density: float = 1.0,
) -> UInt8[np.ndarray, "16 64 3"]:
    """A word through the renderer's camera at half its size.

    Blur and lost detail come before the halving; noise and compression, which belong to the
    pixels of the small picture, after it.

    Args:
      rng: of this word.
      clean: RGB.
      options: the fields of the camera but `exposure` are used.
      density: share of ink in the word's box; thin strokes are blurred less.
    """
    lens = dataclasses.replace(options, noise=0.0)
    chip = dataclasses.replace(options, blur=0.0, low_resolution=0.0)
    blurred = degrade.expose(rng, clean.astype(np.float32), lens, density)
    small = cv2.resize(blurred, LOW[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    return decode_image(degrade.encode(rng, degrade.expose(rng, small, chip), options), LOW)
