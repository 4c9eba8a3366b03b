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
from rcmstr_jax.data.synthetic.render import WordRenderer


class RenderedMasks:
    """Words with the mask of their letters; word i depends on (seed, i) and the options alone.

    The image is the one that `SyntheticSource` gives for the same seed, index and options.
    Neighbouring text is text; outlines and shadows are background.

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
        image_width: int = WIDTH,
        faces: Sequence[Face] | None = None,
    ) -> None:
        self.name = name
        self._given = (seed, length, options)
        self._image_width = image_width
        self._renderer = WordRenderer(options, faces=faces)

    def __len__(self) -> int:
        return self._given[1]

    def __getitem__(self, index: int) -> DenseWord:
        position = check_index(int(index), len(self), self.name)
        rng, scene = self._renderer.compose(self._given[0], position)
        size = (HEIGHT, self._image_width)
        image = decode_image(self._renderer.photograph(rng, scene), size)
        return DenseWord(image, text_mask(scene.coverage("letters", size)), scene.text)

    def __reduce__(self) -> tuple[Any, ...]:
        faces = tuple(self._renderer.fonts.faces)
        rebuild = functools.partial(RenderedMasks, image_width=self._image_width, faces=faces)
        return rebuild, (self.name, *self._given)


class RenderedPairs:
    """Clean words and their damaged halves; word i depends on (seed, i) and the options alone.

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
        # A smaller crop would have to be enlarged to be the truth.
        least = max(HIGH[0], options.min_height)
        tall = dataclasses.replace(
            options, min_height=least, max_height=max(least, options.max_height)
        )
        self._renderer = WordRenderer(tall, faces=faces)

    def __len__(self) -> int:
        return self._given[1]

    def __getitem__(self, index: int) -> DenseWord:
        position = check_index(int(index), len(self), self.name)
        rng, scene = self._renderer.compose(self._given[0], position)
        clean = resize_image(np.clip(scene.picture, 0, 255).astype(np.uint8), HIGH)
        return DenseWord(damage(rng, clean, self._given[2], scene.density), clean, scene.text)

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = functools.partial(RenderedPairs, faces=tuple(self._renderer.fonts.faces))
        return rebuild, (self.name, *self._given)


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
