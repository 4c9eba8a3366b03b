"""Does a face show the letters it claims to? Shapes are compared with those of known faces."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

CHECK_HEIGHT = 20
"""Height in pixels of capital letters in these checks."""

_SIDE = 16
# Letters whose capital is no enlarged copy, and which most scripts draw alike.
_PROBES = "ABDEFGHKMNPRSTW"
_TELLING = "abdefghnqrt"
# Matplotlib, which the pictures need anyway, carries these.
_REFERENCES = (
    "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSans-BoldOblique.ttf", "DejaVuSansMono.ttf",
    "STIXGeneral.ttf", "STIXGeneralItalic.ttf", "cmti10.ttf",
)  # fmt: skip


def raster(font: ImageFont.FreeTypeFont, character: str) -> tuple[np.ndarray, int, int]:
    """Coverage of a character, uint8 (height, width), and its left and top off the origin."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character, anchor="ls"))
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.uint8), 0, 0
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, anchor="ls")
    return np.asarray(image), left, top


def recognised(shapes: Mapping[str, np.ndarray], lower: bool) -> float:
    """Share of probe letters that look most like the same letter of a known face.

    Text faces reach 0.6 to 1, scripts 0.2 to 0.6, pictures in the place of letters 0 to 0.3.

    Args:
      shapes: coverage per character, as `raster` gives it.
      lower: probe lower-case letters instead of capitals.
    """
    probes = [c for c in (_PROBES.lower() if lower else _PROBES) if _inked(shapes, c)]
    if not probes:
        return 0.0
    names, known = _known()
    sought = np.stack([_normalised(shapes[c]) for c in probes])
    best = np.einsum("pd,fcd->pfc", sought, known).max(axis=1).argmax(axis=1)
    return float(
        np.mean([names[k].upper() == c.upper() for c, k in zip(probes, best, strict=True)])
    )


def draws_capitals_only(shapes: Mapping[str, np.ndarray]) -> bool:
    """Whether lower-case letters are capitals, perhaps small ones, judging by their shapes."""
    pairs = [c for c in _TELLING if _inked(shapes, c) and _inked(shapes, c.upper())]
    if not pairs:
        return False
    alike = [float(_normalised(shapes[c]) @ _normalised(shapes[c.upper()])) > 0.9 for c in pairs]
    return sum(alike) > 0.6 * len(alike)


def _inked(shapes: Mapping[str, np.ndarray], character: str) -> bool:
    return character in shapes and shapes[character].size > 0


def _normalised(shape: np.ndarray) -> Float[np.ndarray, "256"]:
    """A shape stretched to a square, blurred, of mean 0 and norm 1."""
    square = cv2.resize(shape.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    blurred = np.asarray(cv2.GaussianBlur(square, (0, 0), 1.0), np.float32).ravel()
    centred = blurred - blurred.mean()
    return centred / np.float32(np.linalg.norm(centred) + 1e-6)


@functools.lru_cache(maxsize=1)
def _known() -> tuple[str, Float[np.ndarray, "faces characters 256"]]:
    """The characters of the known faces, and their shapes."""
    import matplotlib

    names = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [
        ImageFont.truetype(str(folder / file), 28, layout_engine=ImageFont.Layout.BASIC)
        for file in _REFERENCES
        if (folder / file).is_file()
    ]
    shapes = [[_normalised(raster(font, c)[0]) for c in names] for font in fonts]
    return names, np.asarray(shapes, np.float32)
