"""Word images for the tests of the page."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def encode() -> Callable[[int], bytes]:
    """A PNG of smooth random content for each seed."""

    def make(seed: int) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((120, 40)).save(buffer, "PNG")
        return buffer.getvalue()

    return make
