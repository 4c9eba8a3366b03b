"""In which colours: pairs for text and background that can be read."""

from __future__ import annotations

import colorsys
import functools
import json
from pathlib import Path

import numpy as np

# Reds, yellows and blues carry most signs: cumulative share, hue and its width, of 1.
_HUES = (
    (0.27, 0.0, 0.07),
    (0.47, 0.11, 0.10),
    (0.60, 0.33, 0.18),
    (0.90, 0.60, 0.14),
    (1.01, 0.80, 0.40),
)
_REGAIN = 0.5  # difference of text and background that a crop has lost, as a share of it
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def luminance(colour: np.ndarray) -> float:
    """Luma of an RGB colour of 0 to 255, from 0 to 1."""
    return float(colour @ _LUMA) / 255


def draw_colour(rng: np.random.Generator) -> np.ndarray:
    """A colour of signs and print, float32 (3,), RGB, 0 to 255: often grey, sometimes vivid."""
    kind = rng.random()
    family, spread, share = rng.random(3)
    for reach, centre, width in _HUES:
        if family < reach:
            hue = centre + width * (spread - 0.5)
            break
    if kind < 0.5:
        saturation, value = 0.14 * share, rng.beta(0.55, 0.55)
    elif kind < 0.78:
        saturation, value = 0.15 + 0.4 * share, rng.uniform(0.15, 0.95)
    else:
        saturation, value = 0.55 + 0.45 * share, rng.uniform(0.3, 1.0)
    rgb = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return np.array(rgb, np.float32) * 255


def draw_against(rng: np.random.Generator, ground: np.ndarray, contrast: float) -> np.ndarray:
    """A text colour whose luminance differs from a background's by `contrast` at least.

    Args:
      ground: background colour, float32 (3,), 0 to 255.
      contrast: from 0 to 0.5.
    """
    level = luminance(ground)
    for _ in range(6):
        colour = draw_colour(rng)
        if abs(luminance(colour) - level) >= contrast:
            return colour
    # Nothing vivid fits: near white on dark, near black on light.
    white = level < 0.5
    grey = (
        rng.uniform(max(level + contrast, 0.75), 1)
        if white
        else rng.uniform(0, min(level - contrast, 0.25))
    )
    return np.full(3, 255 * grey, np.float32)


def draw_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colours of text and background as real crops pair them, float32 (3,), RGB, 0 to 255 each.

    `palette.json` holds 96 clusters of such pairs: a count, the text's colour and the background's
    (Otsu's threshold parts the pixels of a crop, the border says which part is the background).
    """
    shares, pairs = _palette()
    pair = pairs[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]
    # Blur and thin strokes took some of the difference from the crops, and will do so again.
    half = _REGAIN / 2 * (pair[:3] - pair[3:])
    # The spread of the pairs about the middle of their cluster.
    drawn = pair + rng.normal(0, 15, 6) + np.concatenate([half, -half])
    drawn = np.clip(drawn, 0, 255).astype(np.float32)
    return drawn[:3], drawn[3:]


@functools.lru_cache(maxsize=1)
def _palette() -> tuple[np.ndarray, np.ndarray]:
    rows = json.loads(Path(__file__).with_name("palette.json").read_text(encoding="utf-8"))
    table = np.asarray(rows, np.float64)
    return np.cumsum(table[:, 0]), table[:, 1:]


def draw_paper(rng: np.random.Generator) -> np.ndarray:
    """The grey of white paper, float32 (3,), 0 to 255."""
    return np.full(3, 255 * rng.uniform(0.88, 1.0), np.float32)


def draw_ink(rng: np.random.Generator) -> np.ndarray:
    """The grey of black print, float32 (3,), 0 to 255."""
    return np.full(3, 255 * rng.uniform(0.0, 0.15), np.float32)
