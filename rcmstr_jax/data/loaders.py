"""Step number to batch: what runs inside the threads and worker processes of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.data.faults import Fault, fault_of
from rcmstr_jax.data.mixture import shuffled_index
from rcmstr_jax.data.records import BadRecord, DataLost, RecordSource, is_endless

# So many unusable records in a row mean that the set is broken, not that some records are.
MAX_FAULTS_IN_A_ROW = 500
_GREY = 127


@dataclass(frozen=True)
class Notes:
    """What is no array and travels with a batch. Opaque to Grain, which maps over lists.

    Attributes:
      texts: the words, or None if nobody asked.
      faults: unusable records met while loading.
    """

    texts: list[str | None] | None
    faults: list[Fault]


class RecordReader:
    """Reads records and decodes them.

    Attributes:
      image_size: (height, width) in pixels.
      size: number of records.
      name: name of the source.
    """

    def __init__(self, source: RecordSource, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        self.size = len(source)
        self.name = source.name
        self._source = source
        self._endless = is_endless(source)

    def index_at(self, position: int, seed: int) -> int:
        """Index of the record at a position of the training order."""
        if self._endless:
            return position % self.size
        return shuffled_index(position, self.size, seed)

    def read(
        self, index: int, out: UInt8[np.ndarray, "height width 3"], require_text: bool
    ) -> tuple[str | None, Fault | None]:
        """Decodes a record into `out`; returns its word, and the fault if it cannot be used."""
        key = ""
        source = self._source
        text = None
        try:
            record = source[index]
            key, text = record.key, record.text
            if require_text and text is None:
                raise BadRecord("no label", source=record.source)
            try:
                out[...] = decode_image(record.image, self.image_size)
            except BadRecord as error:
                error.source = record.source
                raise
        except BadRecord as error:
            return error.text if text is None else text, fault_of(error, source, index, key)
        return text, None


class CachedReader:
    """Reads from a `DecodedCache`; its faults were noted when it was built.

    Attributes:
      image_size: (height, width) in pixels.
      size: number of rows.
      name: name of the source.
      cache: the cache.
    """

    def __init__(self, cache: DecodedCache) -> None:
        self.image_size = (cache.images.shape[1], cache.images.shape[2])
        self.size = len(cache)
        self.name = cache.name
        self.cache = cache

    def index_at(self, position: int, seed: int) -> int:
        """Row of the record at a position of the training order."""
        if self.cache.mixture is not None:
            return self.cache.place(*self.cache.mixture.locate(position))
        return shuffled_index(position, self.size, seed)

    def read(
        self, index: int, out: UInt8[np.ndarray, "height width 3"], require_text: bool
    ) -> tuple[str | None, Fault | None]:
        """Copies a row into `out`; returns its word, and a fault if it cannot be used."""
        text = self.cache.texts[index]
        if not self.cache.valid[index]:
            return text, Fault(self.name, str(index), "unusable in the cache")
        if require_text and text is None:
            return text, Fault(self.name, str(index), "no label")
        out[...] = self.cache.images[index]
        return text, None


class TrainLoader:
    """Step -> this host's rows of the training batch."""

    def __init__(
        self,
        reader: RecordReader | CachedReader,
        *,
        batch_size: int,
        rows: range,
        seed: int,
        with_text: bool,
    ) -> None:
        self._reader = reader
        self._batch_size = batch_size
        self._rows = rows
        self._seed = seed
        self._with_text = with_text

    def __call__(self, step: int) -> dict[str, Any]:
        first = step * self._batch_size
        positions = [first + row for row in self._rows]
        images = np.empty((len(positions), *self._reader.image_size, 3), np.uint8)
        faults: list[Fault] = []
        texts = [
            self._read(position, out, faults)
            for position, out in zip(positions, images, strict=True)
        ]
        return {
            "image": images,
            "index": np.asarray(positions, np.int64),
            "notes": Notes(texts if self._with_text else None, faults),
        }

    def _read(self, position: int, out: np.ndarray, faults: list[Fault]) -> str | None:
        for tried in range(min(MAX_FAULTS_IN_A_ROW, 2 * self._reader.size)):
            index = self._reader.index_at(position + tried, self._seed)
            text, fault = self._reader.read(index, out, require_text=False)
            if fault is None:
                return text
            # The rows of a cache were named when it was built.
            if isinstance(self._reader, RecordReader):
                faults.append(fault)
        raise DataLost(
            f"source {self._reader.name!r}: {tried + 1} records in a row cannot be used, the last "
            f"because of: {fault.reason}; check that the set is there and whole "  # type: ignore[union-attr]
            "(faults.json in the workdir names records), then run the same command again"
        )


class EvalLoader:
    """Number of a batch -> this host's rows of it."""

    def __init__(
        self,
        reader: RecordReader | CachedReader,
        *,
        batch_size: int,
        rows: range,
        require_text: bool,
    ) -> None:
        self._reader = reader
        self._batch_size = batch_size
        self._rows = rows
        self._require_text = require_text

    def __call__(self, number: int) -> dict[str, Any]:
        indices = [number * self._batch_size + row for row in self._rows]
        images = np.full((len(indices), *self._reader.image_size, 3), _GREY, np.uint8)
        valid = np.zeros(len(indices), np.bool_)
        texts: list[str | None] = []
        faults: list[Fault] = []
        for row, index in enumerate(indices):
            if index >= self._reader.size:
                texts.append(None)
                continue
            text, fault = self._reader.read(index, images[row], self._require_text)
            texts.append(text)
            valid[row] = fault is None
            if fault is not None and isinstance(self._reader, RecordReader):
                faults.append(fault)
        real = np.asarray(indices, np.int64) < self._reader.size
        return {
            "image": images,
            "valid": valid,
            "weight": real.astype(np.float32),
            "index": np.where(real, np.asarray(indices, np.int64), -1),
            "notes": Notes(texts, faults),
        }
