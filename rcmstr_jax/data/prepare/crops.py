"""From a word of an annotation to its record: found, checked, cut out, compared with benchmarks.

This runs in worker processes, a block of words at a time.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.data.annotations import Item, Quad
from rcmstr_jax.data.benchmarks import passes
from rcmstr_jax.data.decode import MAX_PIXELS, decode_image, decode_photograph
from rcmstr_jax.data.faults import Fault
from rcmstr_jax.data.folder import read_file
from rcmstr_jax.data.prepare.leaks import Hashes, hash_crop
from rcmstr_jax.data.records import BadRecord, Record, RecordSource, decode_label
from rcmstr_jax.data.sources import open_source

# The check decodes to the height of the networks; nothing of it is kept.
_CHECKED_SIZE = (32, 100)
# Annotations give paths below the source or below a folder that holds it.
_PARENTS_TRIED = 3
# The words of a photograph come one after the other.
_PHOTOGRAPHS_KEPT = 2
_QUALITY = 95


@dataclass(frozen=True)
class Job:
    """What is to be done to every word.

    Attributes:
      form: a key of `forms.FORMS`.
      source: folder of the download; nothing outside it is read.
      annotation: annotation file.
      rule: a key of `benchmarks.RULES`, applied to the labels.
      shares: of the sets that the words are split into; they add up to 1.
      seed: of the split.
      known: hashes of benchmark words that must not occur.
    """

    form: str
    source: Path
    annotation: Path
    rule: str = "all"
    shares: tuple[float, ...] = (1.0,)
    seed: int = 0
    known: Hashes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Filtered:
    """A word that the filter leaves out."""

    key: str
    text: str


# What becomes of a word: a record and the number of its set, or why there is none.
Outcome = tuple[int, Record] | Fault | Filtered

_cropper: Cropper | None = None


def start(job: Job) -> None:
    """Prepares a process for `crop_block`."""
    global _cropper
    _cropper = Cropper(job)


def crop_block(items: Sequence[Item | Fault]) -> list[Outcome]:
    """What becomes of the words of a block, in their order."""
    assert _cropper is not None
    return [item if isinstance(item, Fault) else _cropper(item) for item in items]


class Cropper:
    """Makes records of items."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._root = os.path.realpath(job.source)
        parents = list(Path(self._root).parents)[:_PARENTS_TRIED]
        self._bases = list(dict.fromkeys([job.annotation.parent, job.source, *parents]))
        self._records: RecordSource | None = None
        self._photograph = functools.lru_cache(_PHOTOGRAPHS_KEPT)(_read_photograph)
        self._real = functools.lru_cache(4096)(os.path.realpath)

    def __call__(self, item: Item) -> Outcome:
        """The record of a word, or what is wrong with it."""
        try:
            image, text = self._load(item)
            if text is not None and not text.strip():
                raise BadRecord("empty label")
            if not passes(self._job.rule, text or ""):
                return Filtered(item.key, text or "")
            pixels = None
            if item.box is None and item.quad is None:
                pixels = decode_image(image, _CHECKED_SIZE)
            if self._job.known is not None:
                leak = self._job.known.find(
                    hash_crop(decode_image(image, _CHECKED_SIZE) if pixels is None else pixels)
                )
                if leak:
                    raise BadRecord("near-duplicate of a benchmark word", leak)
        except BadRecord as error:
            place = f"{error.source} {error.key}" if error.source else item.file
            return Fault(place[:200], item.key[:200], error.reason, error.detail[:200])
        return self._set_of(item), Record(image, text, str(self._job.source), item.key)

    def _load(self, item: Item) -> tuple[bytes, str | None]:
        """The encoded word (the file as it is, or the part cut out of it), and its label.

        Raises:
          BadRecord: no label, no such file inside the source, or one that cannot be used.
        """
        if item.text is None:
            if self._records is None:
                self._records = open_source(f"{self._job.form}:{self._job.source}")
            record = self._records[item.index]
            if record.text is None and _labelled(self._records):
                raise BadRecord("no label")
            return record.image, record.text
        # JSON can hold halves of characters.
        text = decode_label(item.text.encode("utf-8", "surrogatepass"), item.file, item.key)
        if not text.strip():
            raise BadRecord("empty label")
        file = self._find(item.file)
        if item.box is not None:
            return _cut_box(self._photograph(file), item.box), text
        if item.quad is not None:
            return _cut_quad(self._photograph(file), item.quad), text
        return read_file(file), text

    def _find(self, name: str) -> str:
        outside = False
        for base in self._bases if name and "\0" not in name else ():
            path = os.path.join(base, name)
            if not os.path.isfile(path):
                continue
            folder, last = os.path.split(path)
            real = os.path.join(self._real(folder), last)
            real = os.path.realpath(real) if os.path.islink(real) else real
            if real.startswith(self._root + os.sep):
                return real
            outside = True
        if outside:
            raise BadRecord(
                "image outside the source", "a path or link leads out of --source: give a folder"
                " that holds all of it",
            )  # fmt: skip
        raise BadRecord("missing image file")

    def _set_of(self, item: Item) -> int:
        """By a hash of the image file, so that words of one photograph stay together."""
        if len(self._job.shares) == 1:
            return 0
        digest = hashlib.blake2b(f"{self._job.seed}:{item.file}".encode(errors="replace"))
        place = int.from_bytes(digest.digest()[:8], "big") / 2**64
        ends = np.cumsum(self._job.shares)
        return min(int(np.searchsorted(ends, place, side="right")), len(ends) - 1)


def _labelled(source: RecordSource) -> bool:
    parts = getattr(source, "components", (source,))
    return any(getattr(part, "labelled", False) for part in parts)


def _read_photograph(path: str) -> UInt8[np.ndarray, "height width 3"]:
    return decode_photograph(read_file(path))


def _cut_box(image: UInt8[np.ndarray, "height width 3"], box: tuple[int, int, int, int]) -> bytes:
    """The part of a photograph within (left, top, width, height), as a PNG."""
    left, top, width, height = box
    right, bottom = min(left + width, image.shape[1]), min(top + height, image.shape[0])
    left, top = max(left, 0), max(top, 0)
    if right <= left or bottom <= top:
        raise BadRecord("rectangle outside the image", f"{box} of {image.shape[1::-1]}")
    return _encoded(".png", image[top:bottom, left:right], cv2.IMWRITE_PNG_COMPRESSION, 3)


def _cut_quad(image: UInt8[np.ndarray, "height width 3"], quad: Quad) -> bytes:
    """The part of a picture between four corners, seen from the front, as a JPEG."""
    corners = np.asarray(quad, np.float32)
    if not np.isfinite(corners).all():
        raise BadRecord("corners are no numbers", str(quad))
    low, high = corners.min(axis=0), corners.max(axis=0)
    if (high <= 0).any() or (low >= image.shape[1::-1]).any():
        raise BadRecord("corners outside the image", f"{quad} of {image.shape[1::-1]}")
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    width, height = (round(float(sides[i] + sides[i + 2]) / 2) for i in (0, 1))
    if min(width, height) < 1 or cv2.contourArea(corners) < 1:
        raise BadRecord("corners without an area", str(quad))
    if width * height > MAX_PIXELS:
        raise BadRecord("image too large", f"{width} x {height} pixels between its corners")
    flat = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    word = cv2.warpPerspective(
        image,
        cv2.getPerspectiveTransform(corners, flat),
        (width, height),
        borderMode=cv2.BORDER_REPLICATE,
    )
    return _encoded(".jpg", word, cv2.IMWRITE_JPEG_QUALITY, _QUALITY)


def _encoded(
    kind: str, word: UInt8[np.ndarray, "height width 3"], option: int, value: int
) -> bytes:
    return bytes(cv2.imencode(kind, word, [option, value])[1])
