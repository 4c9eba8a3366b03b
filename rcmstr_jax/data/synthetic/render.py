"""One synthetic word: layout, view, colours, camera, in this order, from (seed, index) alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from rcmstr_jax.data.synthetic import degrade
from rcmstr_jax.data.synthetic.background import draw_background, draw_grain, find_photos
from rcmstr_jax.data.synthetic.colour import (
    draw_against,
    draw_colour,
    draw_ink,
    draw_pair,
    draw_paper,
)
from rcmstr_jax.data.synthetic.fonts import Face, FontBook
from rcmstr_jax.data.synthetic.geometry import View
from rcmstr_jax.data.synthetic.layout import lay_out
from rcmstr_jax.data.synthetic.lexicon import Lexicon
from rcmstr_jax.data.synthetic.options import RenderOptions

LAYERS = ("letters", "outlined", "shadow")


@dataclasses.dataclass(frozen=True)
class Scene:
    """A word under its light, before the camera.

    Attributes:
      text: what is written.
      picture: float32 (height, width, 3), RGB, 0 to 255, values beyond are not cut off yet.
      density: share of ink in the word's box.
      flat: the layers as they were set, before the view: uint8 (height, width, 3 or more).
      view: how they came into the crop.
    """

    text: str
    picture: np.ndarray
    density: float
    flat: np.ndarray
    view: View

    def coverage(self, layer: str, size: tuple[int, int]) -> np.ndarray:
        """Share of each pixel that a layer covers if the crop is resized; uint8, of 255.

        It is drawn at that size, and not enlarged from a small crop.

        Args:
          layer: "letters", neighbouring text included; "outlined", the letters with their outline;
            "shadow".
          size: (height, width) of the crop.
        """
        return self.view.cover(self.flat[..., LAYERS.index(layer)], size)


class WordRenderer:
    """Draws words. Holds no state but caches: the same (seed, index) gives the same bytes.

    Args:
      options: what words may look like.
      faces: fonts that were checked already, for these options.

    Raises:
      ValueError: no usable font, no word after the filters, or no photograph; at once, not
        when the first word is drawn.
    """

    def __init__(self, options: RenderOptions, *, faces: Sequence[Face] | None = None):
        self.options = options
        self.lexicon = Lexicon(options)
        self.fonts = FontBook(options, faces=faces)
        if options.backgrounds:
            find_photos(options.backgrounds, options.looks)

    def render(self, seed: int, index: int) -> tuple[bytes, str]:
        """The encoded crop and the text of one word."""
        rng, scene = self.compose(seed, index)
        return self.photograph(rng, scene), scene.text

    def text(self, seed: int, index: int) -> str:
        """The text alone."""
        return self.lexicon.draw(_generator(seed, index))

    def compose(self, seed: int, index: int) -> tuple[np.random.Generator, Scene]:
        """What stands in front of the camera, and the generator that the camera goes on with."""
        rng = _generator(seed, index)
        return rng, self._draw(rng, self.lexicon.draw(rng))

    def photograph(self, rng: np.random.Generator, scene: Scene) -> bytes:
        """The encoded crop of a scene."""
        picture = degrade.expose(rng, scene.picture, self.options, scene.density)
        return degrade.encode(rng, picture, self.options)

    def _draw(self, rng: np.random.Generator, text: str) -> Scene:
        options = self.options
        face = self.fonts.draw(rng, text)
        layout = lay_out(rng, face, text, options)
        view = View(rng, layout.box, options)
        style = _Style(rng, options)
        flat = style.layers(layout.mask, layout.accent)
        layers = view.warp(flat)
        ink = None
        if style.paper:
            ground = draw_paper(rng)
            picture = np.broadcast_to(ground, (*view.size, 3)).copy()
        elif options.palette and rng.random() < options.palette:
            ink, ground = draw_pair(rng)
            picture, ground = draw_background(rng, view.size, options, ground)
        else:
            picture, ground = draw_background(rng, view.size, options)
        picture = style.paint(rng, picture, ground, ink, layers, options)
        picture = degrade.light(rng, picture, options)
        return Scene(text, picture, layout.density, flat, view)


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, index]))


class _Style:
    """What a word looks like: printed on paper or not, its outline, its shadow or raised edge."""

    def __init__(self, rng: np.random.Generator, options: RenderOptions):
        self.paper = bool(options.paper) and rng.random() < options.paper
        self.outline = self.shift = self.reach = 0
        self.softness = 0.0
        if options.outline and rng.random() < options.outline:
            self.outline = 1 + int(rng.random() * 3)
        if options.shadow and rng.random() < options.shadow:
            self.shift = (1 + int(rng.random() * 4)) * (1 if rng.random() < 0.7 else -1)
            self.reach = 1 + int(rng.random() * 4)
            self.softness = float(rng.uniform(0.8, 3)) if rng.random() < 0.6 else 0.0

    def layers(self, mask: np.ndarray, accent: np.ndarray | None) -> np.ndarray:
        """Letters, letters with outline, shadow and, if any, letters of another colour.

        Channels of uint8 (height, width, 3 or 4).
        """
        wide = mask
        if self.outline:
            size = 2 * self.outline + 1
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
            wide = cv2.dilate(mask, kernel)
        shadow = np.zeros_like(mask)
        if self.shift:
            height, width = mask.shape
            move = np.array([[1, 0, self.shift], [0, 1, self.reach]], np.float32)
            shadow = cv2.warpAffine(wide, move, (width, height))
            if self.softness:
                shadow = cv2.GaussianBlur(shadow, (0, 0), self.softness)
        layers = [mask, wide, shadow]
        return cv2.merge(layers if accent is None else [*layers, accent])

    def paint(
        self,
        rng: np.random.Generator,
        picture: np.ndarray,
        ground: np.ndarray,
        ink: np.ndarray | None,
        layers: np.ndarray,
        options: RenderOptions,
    ) -> np.ndarray:
        """Lays shadow, outline and letters over a background, float32 (height, width, 3)."""
        if ink is None:
            ink = draw_ink(rng) if self.paper else draw_against(rng, ground, options.contrast)
        cover = layers.astype(np.float32) * np.float32(1 / 255)
        if self.shift:
            dark = rng.random() < 0.8
            tone = ground * np.float32(0.25) if dark else draw_colour(rng)
            share = cover[..., 2:3] * np.float32(rng.uniform(0.3, 0.9))
            picture = picture + share * (tone.astype(np.float32) - picture)
        if self.outline:
            rim = draw_against(rng, ink, options.contrast)
            picture = picture + cover[..., 1:2] * (rim - picture)
        fill: np.ndarray = ink
        if options.gradient and rng.random() < 0.3 * options.gradient:
            height = picture.shape[0]
            change = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(rng.uniform(-40, 40))
            fill = ink + change[:, None, None]
        if options.grain and rng.random() < options.grain:
            fill = fill + draw_grain(rng, (picture.shape[0], picture.shape[1]), options)
        if cover.shape[2] > 3:
            other = draw_against(rng, ground, options.contrast)
            fill = fill + cover[..., 3:] * (other - fill)
        share = cover[..., :1] * np.float32(1 - 0.15 * rng.random() ** 2)
        return picture + share * (fill - picture)
