"""On what: plain, lit, textured, divided or photographic backgrounds."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np

from rcmstr_jax.data.synthetic.colour import draw_colour
from rcmstr_jax.data.synthetic.lexicon import in_part
from rcmstr_jax.data.synthetic.options import LOOKS_HOLDOUT, RenderOptions

_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_PHOTO_SIDE = 256
_TILE = 640
_TILE_SEED = 20230806


@functools.lru_cache(maxsize=16)
def find_photos(folder: str, part: str = "all") -> tuple[str, ...]:
    """Paths of the pictures below a folder, sorted.

    Args:
      folder: where they lie.
      part: all of them, or those whose names belong to the train or test part.

    Raises:
      ValueError: no such folder, or no picture of the part in it.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"backgrounds = {folder!r} is no folder; give a folder of photographs")
    found = [p for p in Path(folder).rglob("*") if p.suffix.lower() in _PHOTO_SUFFIXES]
    if not found:
        raise ValueError(
            f"backgrounds = {folder!r} holds no picture ({', '.join(_PHOTO_SUFFIXES)}); "
            "give a folder of photographs"
        )
    kept = tuple(sorted(str(p) for p in found if in_part(p.name, part, LOOKS_HOLDOUT)))
    if not kept:
        raise ValueError(
            f"backgrounds = {folder!r}: none of its {len(found)} pictures belongs to looks = "
            f"{part!r} by the hash of its name; add photographs, or set looks to all"
        )
    return kept


def draw_background(
    rng: np.random.Generator,
    size: tuple[int, int],
    options: RenderOptions,
    colour: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A background and the colour that it has on the whole.

    Args:
      size: height and width, in pixels.
      options: the fields backgrounds, photo and texture are used.
      colour: the mean colour, float32 (3,); None draws one.

    Returns:
      The picture, float32 (height, width, 3), RGB, 0 to 255, and its mean colour, (3,).
    """
    if options.backgrounds and rng.random() < options.photo:
        picture = _photo(rng, size, options)
        mean = picture.mean(axis=(0, 1))
        if colour is None:
            return picture, mean
        return picture + (colour - mean), colour
    if colour is None:
        colour = draw_colour(rng)
    picture = np.empty((*size, 3), np.float32)
    picture[:] = colour
    if options.texture and rng.random() < options.texture:
        _add_texture(rng, picture)
    return picture, colour


def draw_grain(
    rng: np.random.Generator, size: tuple[int, int], options: RenderOptions
) -> np.ndarray:
    """Texture of mean zero for the letters, float32 (height, width, 3): of a photo, or grain."""
    height, width = size
    if options.backgrounds and rng.random() < 0.6:
        picture = _photo(rng, size, options)
        return picture - picture.mean(axis=(0, 1))
    smooth = cv2.GaussianBlur(cut_noise(rng, (height, width)), (0, 0), float(rng.uniform(0.6, 2.5)))
    return smooth * np.float32(rng.uniform(5, 20) / max(float(smooth.std()), 1e-3))


def cut_noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A random cut-out of the noise tile, float32 (height, width, 3). Cheaper than fresh noise."""
    height, width = size
    row = int(rng.random() * (_TILE - height))
    column = int(rng.random() * (_TILE - width))
    return _noise_tile()[row : row + height, column : column + width]


@functools.lru_cache(maxsize=1)
def _noise_tile() -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=_TILE_SEED))
    grey = rng.standard_normal((_TILE, _TILE, 1), np.float32) * np.float32(0.8)
    return grey + rng.standard_normal((_TILE, _TILE, 3), np.float32) * np.float32(0.6)


def _add_texture(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Blotches, grain, boards or an edge of the sign, in place."""
    height, width = picture.shape[:2]
    kind = rng.random()
    if kind < 0.4:  # dirt and uneven paint
        grid = rng.standard_normal((2 + int(rng.random() * 4), 3 + int(rng.random() * 10)))
        blotches = cv2.resize(
            grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        picture += np.float32(rng.uniform(4, 22)) * blotches[..., None]
    elif kind < 0.65:  # stone, plaster, fabric
        grain = cv2.GaussianBlur(
            np.ascontiguousarray(cut_noise(rng, (height, width))[..., :1]), (0, 0),
            sigmaX=float(rng.uniform(0.6, 3)), sigmaY=float(rng.uniform(0.6, 1.5)),
        )  # fmt: skip
        grain = grain * np.float32(rng.uniform(4, 18) / max(float(grain.std()), 1e-3))
        picture += grain[..., None]
    elif kind < 0.8:  # boards, bricks, blinds
        period = float(rng.uniform(0.15, 0.8)) * height
        along = np.arange(height if rng.random() < 0.6 else width, dtype=np.float32)
        wave = np.sin(along * np.float32(2 * np.pi / period) + np.float32(rng.random() * 6))
        if rng.random() < 0.5:
            wave = np.where(wave > 0.9, np.float32(-1), np.float32(0.1))
        wave = wave[:, None] if along.size == height else wave[None, :]
        picture += np.float32(rng.uniform(5, 25)) * wave[..., None]
    else:  # the sign ends within the crop
        other = draw_colour(rng)
        reach = float(rng.uniform(0.03, 0.2)) * height
        slope = float(rng.uniform(-0.1, 0.1))
        x = np.arange(width, dtype=np.float32)
        y = np.arange(height, dtype=np.float32)[:, None]
        side = int(rng.random() * 4)
        distance = (y - slope * x, height - y - slope * x, x - slope * y, width - x - slope * y)[
            side
        ]
        share = np.clip(distance - reach, 0, 1).astype(np.float32)[..., None]
        picture *= share
        picture += (1 - share) * other


def _photo(rng: np.random.Generator, size: tuple[int, int], options: RenderOptions) -> np.ndarray:
    """A cut-out of a photograph, calmed down so that text on it stays readable."""
    paths = find_photos(options.backgrounds, options.looks)
    photo = _load_photo(paths[int(rng.random() * len(paths))])
    height, width = size
    rows, columns = photo.shape[:2]
    zoom = float(rng.uniform(0.25, 1.0))
    cut_height = max(4, int(min(rows, height / max(width, height) * columns) * zoom))
    cut_width = max(4, min(columns, int(cut_height * width / height)))
    row = int(rng.random() * (rows - cut_height + 1))
    column = int(rng.random() * (columns - cut_width + 1))
    cut = photo[row : row + cut_height, column : column + cut_width]
    picture = cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    spread = float(picture.std())
    wanted = float(rng.uniform(8, 32))
    if spread > wanted:
        mean = picture.mean(axis=(0, 1))
        picture -= mean
        picture *= np.float32(wanted / spread)
        picture += mean
    return picture


@functools.lru_cache(maxsize=2048)
def _load_photo(path: str) -> np.ndarray:
    """A photograph, uint8 (height, width, 3), RGB, its longer side 256 pixels at most."""
    picture = cv2.imread(path, cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"backgrounds: {path!r} cannot be decoded; remove it from the folder")
    rows, columns = picture.shape[:2]
    scale = _PHOTO_SIDE / max(rows, columns)
    if scale < 1:
        size = (max(8, round(columns * scale)), max(8, round(rows * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture[..., ::-1])
