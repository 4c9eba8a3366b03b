"""Decoded words in memory: every image once, uint8, already of the wanted size.

For finite sets that fit: training then reads by indexing instead of decoding each epoch anew.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from rcmstr_jax.data.faults import Fault, FaultLog
from rcmstr_jax.data.mixture import MixtureSource, shuffled_index
from rcmstr_jax.data.records import ConcatSource, RecordSource, is_endless

_log = logging.getLogger(__name__)
_BUILD_BATCH = 128
_PROGRESS_SECONDS = 10.0


class DecodedCache:
    """The decoded images of a finite source, or of a mixture of finite sources.

    `train_batches` and `eval_batches` take it in place of the source, and give the same batches;
    the records that cannot be used are noted when it is built.

    Attributes:
      image_size: (height, width) in pixels.
      images: uint8 RGB; those of unusable records are grey.
      valid: False for records that could not be read or decoded.
      texts: the words, None where there is no label.
      name: name of the source.
      mixture: the mixture that orders the records, or None to shuffle by epochs.
    """

    images: UInt8[np.ndarray, "records height width 3"]
    valid: Bool[np.ndarray, "records"]

    def __init__(
        self,
        images: UInt8[np.ndarray, "records height width 3"],
        valid: Bool[np.ndarray, "records"],
        texts: Sequence[str | None],
        name: str,
        mixture: MixtureSource | None,
    ) -> None:
        if not len(images) == len(valid) == len(texts):
            raise ValueError(
                f"{name}: {len(images)} images, {len(valid)} flags and {len(texts)} texts differ"
            )
        if not valid.any():
            raise ValueError(f"{name}: none of {len(valid)} records can be used")
        self.images = images
        self.image_size: tuple[int, int] = (images.shape[1], images.shape[2])
        self.valid = valid
        self.texts = tuple(texts)
        self.name = name
        self.mixture = mixture
        sizes = [len(part) for part in mixture.components] if mixture is not None else []
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return len(self.texts)

    def index_at(self, position: int, seed: int) -> int:
        """Row of the record at a position of the training order."""
        if self.mixture is None:
            return shuffled_index(position, len(self), seed)
        component, index = self.mixture.locate(position)
        return int(self._starts[component]) + index

    def read(
        self, index: int, out: UInt8[np.ndarray, "height width 3"], require_text: bool
    ) -> tuple[str | None, Fault | None]:
        """Copies a row into `out`; returns its word, and a fault if it cannot be used."""
        text = self.texts[index]
        if not self.valid[index]:
            return text, Fault(self.name, str(index), "unusable in the cache")
        if require_text and text is None:
            return text, Fault(self.name, str(index), "no label")
        out[...] = self.images[index]
        return text, None

    @classmethod
    def build(
        cls,
        source: RecordSource,
        image_size: tuple[int, int],
        *,
        workers: int = 0,
        faults: FaultLog | None = None,
        max_bytes: int | None = None,
    ) -> DecodedCache:
        """Decodes every record once.

        Args:
          source: finite, or a mixture of finite sources.
          image_size: (height, width) in pixels.
          workers: worker processes; 0 decodes in threads.
          faults: takes the records that cannot be used.
          max_bytes: most memory that the images may take; half of this machine's by default.

        Raises:
          ValueError: the source never ends, or its images do not fit.
        """
        from rcmstr_jax.data.pipeline import eval_batches

        mixture = source if isinstance(source, MixtureSource) else None
        parts = mixture.components if mixture is not None else (source,)
        endless = [part.name for part in parts if is_endless(part)]
        if endless:
            raise ValueError(
                f"data.cache: source {endless[0]!r} never ends and cannot be kept in memory; give "
                "it a size (synthetic:SEED:COUNT) or set data.cache=False"
            )
        whole = ConcatSource(parts, name=source.name)
        size = len(whole)
        limit = _half_of_memory() if max_bytes is None else max_bytes
        needed = size * image_size[0] * image_size[1] * 3
        if needed > limit:
            raise ValueError(
                f"data.cache: {size} decoded images take {needed / 1e9:.1f} GB, more than the "
                f"{limit / 1e9:.1f} GB allowed; set data.cache=False"
            )
        images = np.empty((size, *image_size, 3), np.uint8)
        valid = np.zeros(size, np.bool_)
        texts: list[str | None] = []
        start = shown = time.monotonic()
        with eval_batches(
            whole, batch_size=_BUILD_BATCH, image_size=image_size, workers=workers, faults=faults
        ) as batches:
            for batch in batches:
                rows = batch["index"][batch["weight"] > 0]
                images[rows] = batch["image"][: len(rows)]
                valid[rows] = batch["valid"][: len(rows)]
                texts.extend(batch["text"][: len(rows)])
                now = time.monotonic()
                if now - shown > _PROGRESS_SECONDS or len(texts) == size:
                    shown = now
                    _log.info(
                        "decoded %d of %d words of %s (%.0f a second)",
                        len(texts),
                        size,
                        source.name,
                        len(texts) / max(now - start, 1e-9),
                    )
        return cls(images, valid, texts, source.name, mixture)


def _half_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
