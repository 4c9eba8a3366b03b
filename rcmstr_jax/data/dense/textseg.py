"""TextSeg (Xu et al., arXiv 2011.14021): words cut out of photographs, with masks of their letters.

The published layout, of the data set's README and of the loader beside it:

    FOLDER/image/ID.jpg
    FOLDER/annotation/ID_anno.json        (`bpoly_label` in that loader and in BTS)
    FOLDER/semantic_label/ID_maskfg.png   0 background, 100 word, 200 its effect, 255 to be ignored
    FOLDER/split.json                     {"train": [ID, ...], "val": [...], "test": [...]}

An annotation maps the number of a word to `{"text": ..., "bbox": [x0, y0, x1, y1, ...], ...}`: the
corners of a polygon. Of the mask, 100 alone is text here: effects (outlines, shadows) and what is
to be ignored count as background.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.data.decode import MAX_PHOTO_PIXELS, decode_photograph, read_size, resize_image
from rcmstr_jax.data.dense.words import HEIGHT, WIDTH, DenseWord, text_mask
from rcmstr_jax.data.folder import read_file
from rcmstr_jax.data.records import BadRecord, check_index, decode_label

_TEXT = 100
_ANNOTATIONS = ("annotation", "bpoly_label")
_LEAST_PIXELS = 2


@dataclass(frozen=True)
class _Word:
    """A word of a photograph, or why its annotation cannot be read."""

    photo: str
    key: str
    text: str = ""
    corners: tuple[float, ...] = ()
    fault: tuple[str, str] | None = None


class TextSegSource:
    """The words of TextSeg, or of a set of its layout, cut out by the bounds of their polygons.

    Attributes:
      name: "textseg:", the folder, and the split if one was named.
    """

    def __init__(self, folder: str, split: str = "", *, image_width: int = WIDTH) -> None:
        """Lists the words of all annotations.

        Args:
          folder: see above.
          split: a key of `split.json`; all images without.
          image_width: in pixels.

        Raises:
          ValueError: another layout, no such split, or no words.
        """
        self.name = f"textseg:{folder}" + (f":{split}" if split else "")
        self._root = Path(folder)
        self._image_width = image_width
        found = [name for name in _ANNOTATIONS if (self._root / name).is_dir()]
        lacking = [n for n in ("image", "semantic_label") if not (self._root / n).is_dir()]
        if lacking or not found:
            raise ValueError(
                f"data.source: {self.name!r} has no folder "
                f"{', '.join([*lacking, *(() if found else ('annotation',))])}; TextSeg unpacks to "
                "image/, annotation/ and semantic_label/"
            )
        self._words = [
            word for photo in self._photos(found[0], split) for word in self._list(found[0], photo)
        ]
        if not self._words:
            raise ValueError(f"data.source: {self.name!r} has no word in {found[0]}/*_anno.json")

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, index: int) -> DenseWord:
        word = self._words[check_index(int(index), len(self), self.name)]
        try:
            if word.fault is not None:
                raise BadRecord(*word.fault)
            photo, mask = _read_photo(str(self._root), word.photo)
            height, width = mask.shape
            points = np.asarray(word.corners, np.float64).reshape(-1, 2)
            low = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
            high = np.clip(np.ceil(points.max(axis=0)), 0, (width, height)).astype(int)
            if min(high - low) < _LEAST_PIXELS:
                raise BadRecord("word box without pixels", f"{word.corners}")
            box = slice(low[1], high[1]), slice(low[0], high[0])
            size = (HEIGHT, self._image_width)
            text = np.repeat(255 * (mask[box] == _TEXT).astype(np.uint8)[..., None], 3, axis=2)
            label = decode_label(word.text.encode(), self.name, word.key)
            return DenseWord(
                resize_image(photo[box], size),
                text_mask(resize_image(text, size)[..., 0]),
                label,
            )
        except BadRecord as error:
            error.source, error.key = self.name, word.key
            raise

    def _photos(self, folder: str, split: str) -> list[str]:
        if not split:
            files = (self._root / folder).glob("*_anno.json")
            return sorted(path.name.removesuffix("_anno.json") for path in files)
        path = self._root / "split.json"
        try:
            splits = json.loads(path.read_text(encoding="utf-8"))
            return sorted(str(photo) for photo in splits[split])
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"data.source: {self.name!r}: {path} cannot be read: {error}"
            ) from error
        except KeyError:
            raise ValueError(
                f"data.source: {self.name!r}: {path} has no split {split!r}; it has "
                f"{', '.join(map(str, splits))}"
            ) from None

    def _list(self, folder: str, photo: str) -> list[_Word]:
        """The words of a photograph; one that carries the fault where they cannot be read."""
        name = f"{photo}_anno.json"
        try:
            items = json.loads(read_file(self._root / folder / name)).items()
        except BadRecord as error:
            return [_Word(photo, name, fault=(error.reason, error.detail))]
        except (ValueError, AttributeError) as error:
            return [_Word(photo, name, fault=("damaged annotation", repr(error)))]
        return [_read_word(photo, f"{photo} {number}", word) for number, word in items]


def _read_word(photo: str, key: str, word: Any) -> _Word:
    try:
        corners = np.asarray(word["bbox"], np.float64).ravel()
        if corners.size < 4 or corners.size % 2 or not np.isfinite(corners).all():
            raise ValueError(f"bbox is {word['bbox']!r}")
        return _Word(photo, key, str(word["text"]), tuple(corners.tolist()))
    except (ValueError, TypeError, KeyError) as error:
        return _Word(photo, key, fault=("damaged annotation", repr(error)))


@functools.lru_cache(maxsize=4)
def _read_photo(
    root: str, photo: str
) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
    """A photograph, RGB, and its mask; the words of one follow one another."""
    image = decode_photograph(read_file(Path(root) / "image" / f"{photo}.jpg"))
    data = read_file(Path(root) / "semantic_label" / f"{photo}_maskfg.png")
    if np.prod(read_size(data)) > MAX_PHOTO_PIXELS:
        raise BadRecord("mask too large", f"{read_size(data)}")
    # Unchanged: the values are numbers of classes, not shades.
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise BadRecord("damaged mask")
    mask = mask if mask.ndim == 2 else mask[..., 0]
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise BadRecord("mask of another size", f"{mask.shape} {mask.dtype}, not {image.shape[:2]}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), mask
