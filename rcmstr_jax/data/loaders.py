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
    """Reads records and decodes them, as `DecodedCache` does of what it holds.

    Attributes:
      image_size: (height, width) in pixels.
      name: name of the source.
    """

    def __init__(self, source: RecordSource, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        self.name = source.name
        self._source = source
        self._endless = is_endless(source)

    def __len__(self) -> int:
        return len(self._source)

    def index_at(self, position: int, seed: int) -> int:
        """Index of the record at a position of the training order."""
        if self._endless:
            return position % len(self)
        return shuffled_index(position, len(self), seed)

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
                out[...] = decode_image(record.image, self.image_size, record.turn)
            except BadRecord as error:
                error.source = record.source
                raise
        except BadRecord as error:
            return error.text if text is None else text, fault_of(error, source, index, key)
        return text, None


def load_training(
    step: int,
    *,
    reader: RecordReader | DecodedCache,
    batch_size: int,
    rows: range,
    seed: int,
    with_text: bool,
) -> dict[str, Any]:
    """This host's `rows` of the training batch of a step."""
    positions = [step * batch_size + row for row in rows]
    images = np.empty((len(positions), *reader.image_size, 3), np.uint8)
    faults: list[Fault] = []
    texts = [
        _read_usable(reader, position, seed, out, faults)
        for position, out in zip(positions, images, strict=True)
    ]
    return {
        "image": images,
        "index": np.asarray(positions, np.int64),
        "notes": Notes(texts if with_text else None, faults),
    }


def _read_usable(
    reader: RecordReader | DecodedCache,
    position: int,
    seed: int,
    out: np.ndarray,
    faults: list[Fault],
) -> str | None:
    for tried in range(min(MAX_FAULTS_IN_A_ROW, 2 * len(reader))):
        text, fault = reader.read(reader.index_at(position + tried, seed), out, require_text=False)
        if fault is None:
            return text
        # The rows of a cache were named when it was built.
        if isinstance(reader, RecordReader):
            faults.append(fault)
    raise DataLost(
        f"source {reader.name!r}: {tried + 1} records in a row cannot be used, the last "
        f"because of: {fault.reason}; check that the set is there and whole "  # type: ignore[union-attr]
        "(faults.json in the workdir names records), then run the same command again"
    )


def load_evaluation(
    number: int, *, reader: RecordReader | DecodedCache, batch_size: int, require_text: bool
) -> dict[str, Any]:
    """The batch of this number, records in order."""
    indices = np.arange(number * batch_size, (number + 1) * batch_size)
    real = indices < len(reader)
    images = np.full((batch_size, *reader.image_size, 3), _GREY, np.uint8)
    valid = np.zeros(batch_size, np.bool_)
    texts: list[str | None] = [None] * batch_size
    faults: list[Fault] = []
    for row in np.flatnonzero(real):
        texts[row], fault = reader.read(int(indices[row]), images[row], require_text)
        valid[row] = fault is None
        if fault is not None and isinstance(reader, RecordReader):
            faults.append(fault)
    return {
        "image": images,
        "valid": valid,
        "weight": real.astype(np.float32),
        "index": np.where(real, indices, -1),
        "notes": Notes(texts, faults),
    }
