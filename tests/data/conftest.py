"""Small word images and sets for the tests of the data package."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record

Encode = Callable[..., bytes]
MakeLmdb = Callable[..., Path]


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encodes an image of smooth random content; seed, format and Pillow mode vary it."""

    def make(
        seed: int = 0, fmt: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (40, 120)
    ) -> bytes:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 8, 3), np.uint8))
        image = coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, fmt)
        return buffer.getvalue()

    return make


@pytest.fixture
def make_lmdb(tmp_path: Path, encode: Encode) -> MakeLmdb:
    """Writes an LMDB of `count` images with texts `PREFIX0, PREFIX1, ...`; returns its folder."""

    def make(name: str = "words", count: int = 7, prefix: str = "w", labelled: bool = True) -> Path:
        path = tmp_path / name
        seed = sum(name.encode()) * 1000
        write_lmdb(
            path,
            (
                Record(encode(seed + i), f"{prefix}{i}" if labelled else None, "test")
                for i in range(count)
            ),
        )
        return path

    return make
