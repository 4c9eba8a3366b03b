"""One word with an answer for every pixel, and many of them as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from rcmstr_jax.data.faults import Fault, FaultLog
from rcmstr_jax.data.records import BadRecord

TASKS = ("segmentation", "super_resolution")
# Height of a word to be segmented, and its width by default.
HEIGHT, WIDTH = 32, 128
# (height, width) of a low-resolution word and of the high-resolution one.
LOW, HIGH = (16, 64), (32, 128)
# Coverage from which on a pixel is text: half of 255.
_HALF = 128


@dataclass(frozen=True)
class DenseWord:
    """An image and what a network shall make of it.

    Attributes:
      image: what the network sees, uint8 RGB (32, width, 3); for super-resolution (16, 64, 3).
      target: segmentation: uint8 (32, width), 1 where there is text and else 0;
        super-resolution: the word at twice the size, uint8 RGB (32, 128, 3).
      label: the word; empty where it is not known.
    """

    image: UInt8[np.ndarray, "height width 3"]
    target: UInt8[np.ndarray, "..."]
    label: str


@runtime_checkable
class DenseSource(Protocol):
    """Random access to words, always the same ones; `source[index]` may raise `BadRecord`."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> DenseWord: ...


@dataclass(frozen=True)
class DenseArrays:
    """Words of a source as arrays, without those that cannot be used.

    Attributes:
      images: uint8 (words, height, width, 3).
      targets: uint8 (words, ...).
      labels: the words.
      index: place of each in its source, int64 (words,).
    """

    images: UInt8[np.ndarray, "words height width 3"]
    targets: UInt8[np.ndarray, "words ..."]
    labels: tuple[str, ...]
    index: Int64[np.ndarray, "words"]


def read_words(
    source: DenseSource, indices: Iterable[int] | None = None, faults: FaultLog | None = None
) -> DenseArrays:
    """Words of a source, all of them by default; those that cannot be used are left out and noted.

    Args:
      source: the words.
      indices: which of them, in this order.
      faults: takes the words that cannot be used.

    Raises:
      ValueError: none can be used.
    """
    faults = faults if faults is not None else FaultLog()
    words, kept = [], []
    for index in range(len(source)) if indices is None else indices:
        try:
            words.append(source[index])
        except BadRecord as error:
            place = error.source or source.name, error.key or str(index)
            faults.add(Fault(*place, error.reason, error.detail))
        else:
            kept.append(index)
    if not words:
        raise ValueError(f"{source.name}: none of its words can be used ({faults.counts()})")
    return DenseArrays(
        np.stack([word.image for word in words]),
        np.stack([word.target for word in words]),
        tuple(word.label for word in words),
        np.asarray(kept, np.int64),
    )


def text_mask(coverage: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """1 where half of a pixel or more is text; of the share that is, of 255, at the final size."""
    return (coverage >= _HALF).astype(np.uint8)
