"""Near-duplicates of benchmark words, found by a perceptual hash.

The hash is the sign of the low frequencies of a crop's grey levels (pHash: Zauner, "Implementation
and benchmarking of perceptual image hash functions", 2010). It survives another encoding, size and
brightness, and a crop that is a pixel wider.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8, UInt64

from rcmstr_jax.data.benchmarks import open_benchmark, resolve_benchmarks
from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.data.records import BadRecord

_log = logging.getLogger(__name__)
_SIZE = (32, 100)
# Frequencies kept downwards and across; words differ across.
_ROWS, _COLUMNS = 8, 24
NEAR = 24
"""Most differing bits, of 192, between two pictures of the same crop."""


def hash_crop(crop: UInt8[np.ndarray, "height width 3"]) -> UInt64[np.ndarray, "3"]:
    """The hash of an RGB crop that was resized to one size for all."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    # Even numbers of rows and columns, as cv2.dct asks.
    low = cv2.dct(cv2.resize(grey, (96, 32), interpolation=cv2.INTER_AREA))[:_ROWS, :_COLUMNS]
    low[0, 0] = 0  # the brightness
    return np.packbits(low > np.median(low)).view(np.uint64)


@dataclass(frozen=True)
class Hashes:
    """Hashes of benchmark words.

    Attributes:
      hashes: one row per word.
      places: "IC13_1015 image-000000001" of every word.
    """

    hashes: UInt64[np.ndarray, "words 3"]
    places: tuple[str, ...]

    def find(self, wanted: UInt64[np.ndarray, "3"]) -> str:
        """Where the nearest word lies and how far away, "" if none is nearer than `NEAR`."""
        distances = np.bitwise_count(self.hashes ^ wanted).sum(axis=1)
        nearest = int(distances.argmin())
        distance = int(distances[nearest])
        return f"{self.places[nearest]}, {distance} bits apart" if distance <= NEAR else ""


def hash_benchmarks(root: str) -> Hashes:
    """Hashes every word of every benchmark.

    Args:
      root: as `config.benchmarks` takes it.

    Raises:
      ValueError: there is no benchmark, or no image in them can be read.
    """
    hashes, places = [], []
    try:
        benchmarks = resolve_benchmarks(root)
    except ValueError as error:
        raise ValueError(str(error).replace("config.benchmarks=", "--exclude_like=")) from error
    for benchmark in benchmarks:
        if benchmark.fault:
            raise ValueError(f"--exclude_like={root}: {benchmark.fault}")
        source = open_benchmark(benchmark.path)
        for index in range(len(source)):
            try:
                record = source[index]
                hashes.append(hash_crop(decode_image(record.image, _SIZE, record.turn)))
            except BadRecord as error:
                _log.warning("%s %d cannot be compared: %s", benchmark.name, index + 1, error)
                continue
            places.append(f"{benchmark.name} {record.key}")
    if not hashes:
        raise ValueError(f"--exclude_like={root} holds no image that can be read")
    return Hashes(np.stack(hashes), tuple(places))
