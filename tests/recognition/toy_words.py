"""A few drawn words as LMDBs, one of them damaged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record

WORDS = ["cat", "Dog", "otter", "yak-7", "emu", "see", "bee", "ant", "gnu", "Жук"]
BROKEN = 3  # record whose bytes are no image


def picture(text: str) -> bytes:
    canvas = np.full((32, 100, 3), 255, np.uint8)
    cv2.putText(canvas, text, (2, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
    return cv2.imencode(".png", canvas)[1].tobytes()


def words_lmdb(path: Path, texts: list[str]) -> None:
    images = [b"not an image" if i == BROKEN else picture(text) for i, text in enumerate(texts)]
    records = [Record(image, text, "test") for image, text in zip(images, texts, strict=True)]
    write_lmdb(path, records)
