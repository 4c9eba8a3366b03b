"""Where letters stand: a word, and the text around it, rasterised flat onto one canvas."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from rcmstr_jax.data.synthetic.fonts import CAP_HEIGHT, Face, needs_shaping, open_font
from rcmstr_jax.data.synthetic.glyphs import raster
from rcmstr_jax.data.synthetic.options import RenderOptions

PAD = 30
"""Empty border around the word on the canvas, in pixels."""

_FILLER = "aeinorstlcdhmup"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Flat text before colour and camera.

    Attributes:
      mask: coverage of the letters, uint8 (height, width), neighbouring text included.
      box: left, top, right, bottom of the ink of the word alone.
      density: share of the box that is ink; below 0.2 strokes are thin.
      accent: coverage of the letters of another colour, uint8 (height, width); None without.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    density: float
    accent: np.ndarray | None = None


def lay_out(rng: np.random.Generator, face: Face, text: str, options: RenderOptions) -> Layout:
    """Sets a word, with letter spacing and jitter, and clutter around it.

    Args:
      face: a face that shows every character.
      text: the word.
      options: the fields spacing, jitter, accent and clutter are used.
    """
    spacing = 0.0
    if options.spacing and rng.random() < 0.35:
        spacing = float(rng.uniform(-0.15, 1.0)) * options.spacing * face.size
    jitter = 0.0
    if options.jitter and rng.random() < 0.25:
        jitter = float(rng.random()) * options.jitter * face.size
    placed = _place(face, text, spacing, jitter, rng if jitter else None)
    whole = _draw(placed)
    inked = _ink_box(whole)
    word = whole[inked]
    height, width = word.shape

    def on_canvas(ink: np.ndarray) -> np.ndarray:
        canvas = np.zeros((height + 2 * PAD, width + 2 * PAD), np.uint8)
        canvas[PAD : PAD + height, PAD : PAD + width] = ink
        return canvas

    canvas = on_canvas(word)
    accent = None
    if options.accent and len(placed) > 1 and rng.random() < options.accent:
        initial = rng.random() < 0.5
        chosen = {0} if initial else set(range(0, len(text), 2 + int(rng.random() * 2)))
        accent = on_canvas(_draw(placed, chosen)[inked])
    box = (PAD, PAD, PAD + width, PAD + height)
    if options.clutter and rng.random() < options.clutter:
        _add_clutter(rng, face, canvas, box, options)
    return Layout(canvas, box, density=float(word.mean()) / 255, accent=accent)


def set_line(face: Face, text: str) -> np.ndarray:
    """Ink of one line of text that a face shows, uint8 (height, width), cut to its bounding box."""
    line = _draw(_place(face, text))
    return line[_ink_box(line)]


def _ink_box(line: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold the ink, at least one of each."""
    x, y, width, height = cv2.boundingRect(line)
    return slice(y, y + max(height, 1)), slice(x, x + max(width, 1))


_Placed = list[tuple[np.ndarray, int, int]]


def _place(
    face: Face,
    text: str,
    spacing: float = 0.0,
    jitter: float = 0.0,
    rng: np.random.Generator | None = None,
) -> _Placed:
    """Coverage, left and top of every character of a line; `spacing` and `jitter` in pixels.

    Text whose letters belong together is one piece, in the order in which it is seen.
    """
    if needs_shaping(text):
        return [raster(open_font(face.path, face.size, shaped=True), text)]
    pen = 0.0
    placed: _Placed = []
    previous = ""
    for character in text:
        shape, left, top, advance = glyph(face, character)
        if previous:
            pen += _kern(face, previous + character) + max(spacing, -0.25 * advance)
        drop = int(round(float(rng.uniform(-jitter, jitter)))) if rng is not None else 0
        placed.append((shape, int(round(pen)) + left, top + drop))
        pen += advance
        previous = character
    return placed


def _draw(placed: _Placed, chosen: set[int] | None = None) -> np.ndarray:
    """Ink of placed characters, or of some of them on the place that all of them take."""
    left = min(x for _, x, _ in placed)
    top = min(y for _, _, y in placed)
    right = max(x + shape.shape[1] for shape, x, _ in placed)
    bottom = max(y + shape.shape[0] for shape, _, y in placed)
    line = np.zeros((max(bottom - top, 1), max(right - left, 1)), np.uint8)
    for number, (shape, x, y) in enumerate(placed):
        if chosen is not None and number not in chosen:
            continue
        rows = slice(y - top, y - top + shape.shape[0])
        columns = slice(x - left, x - left + shape.shape[1])
        np.maximum(line[rows, columns], shape, out=line[rows, columns])
    return line


@functools.lru_cache(maxsize=32768)
def glyph(face: Face, character: str) -> tuple[np.ndarray, int, int, float]:
    """Coverage of a character, its left and top off the pen, and its advance, in pixels."""
    font = open_font(face.path, face.size)
    shape, left, top = raster(font, character)
    return shape, left, top, float(font.getlength(character))


@functools.lru_cache(maxsize=65536)
def _kern(face: Face, pair: str) -> float:
    together = float(open_font(face.path, face.size).getlength(pair))
    return together - glyph(face, pair[0])[3] - glyph(face, pair[1])[3]


def _add_clutter(
    rng: np.random.Generator,
    face: Face,
    canvas: np.ndarray,
    box: tuple[int, int, int, int],
    options: RenderOptions,
) -> None:
    """Text of the same face before, behind, above or below the word, cut by the canvas."""
    left, top, right, bottom = box
    width, middle = right - left, CAP_HEIGHT // 3
    for side in range(4):  # left, right, above, below
        if rng.random() > 0.45:
            continue
        line = set_line(face, _filler_text(rng, face, width if side > 1 else 40, options))
        line_height, line_width = line.shape
        if side == 0:
            x, y = left - middle - int(rng.random() * 8) - line_width, bottom - line_height
        elif side == 1:
            x, y = right + middle + int(rng.random() * 8), bottom - line_height
        else:
            x = left - PAD + int(rng.random() * PAD)
            gap = 5 + int(rng.random() * 12)
            y = top - gap - line_height if side == 2 else bottom + gap
        _paste(canvas, line, x, y)


def _filler_text(rng: np.random.Generator, face: Face, width: int, options: RenderOptions) -> str:
    characters = [c for c in _FILLER if c in face.characters]
    if not characters:
        characters = sorted(face.characters)
    if rng.random() < 0.5:
        upper = [c.upper() for c in characters if c.upper() in face.characters]
        characters = upper or characters
    count = max(2, min(16, width // (CAP_HEIGHT // 2)))
    return "".join(characters[i] for i in rng.integers(len(characters), size=count))


def _paste(canvas: np.ndarray, ink: np.ndarray, x: int, y: int) -> None:
    """Adds ink to the canvas, as far as it lies on it."""
    height, width = canvas.shape
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + ink.shape[1], width), min(y + ink.shape[0], height)
    if right <= left or bottom <= top:
        return
    part = ink[top - y : bottom - y, left - x : right - x]
    np.maximum(canvas[top:bottom, left:right], part, out=canvas[top:bottom, left:right])
