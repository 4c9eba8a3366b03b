"""Images of many requests in common batches of few sizes, each compiled once."""

from __future__ import annotations

import asyncio
import bisect
import collections
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from rcmstr_jax.recognition.attending import ATTENDING, read_and_attend
from rcmstr_jax.recognition.heads import Word
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.serving.limits import Refused


class Read(NamedTuple):
    """What was read of an image.

    Attributes:
      word: text and confidences.
      attention: weights over the frames for each character, None where the decoder has none.
    """

    word: Word
    attention: Float[np.ndarray, "characters frames"] | None


class Batcher:
    """Reads images as they come: while a batch is computed, the next one gathers.

    An image never waits for others to come. A batch is filled up to the smallest of `sizes` that
    holds it; the confidences of an image may differ in the last bits from one size to another.

    Args:
      recognizer: that reads.
      sizes: rows of a batch, ascending.
      waiting: images that may wait at a time.

    Attributes:
      images: that have been read.
      batches: in which they were.
    """

    def __init__(
        self, recognizer: Recognizer, sizes: Sequence[int] = (1, 8, 32), waiting: int = 4096
    ) -> None:
        self.recognizer, self.sizes, self.limit = recognizer, tuple(sizes), waiting
        self.images = self.batches = 0
        self._waiting: collections.deque[tuple[np.ndarray, asyncio.Future[Read]]]
        self._waiting = collections.deque()
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "reader")
        self._attending = recognizer.head.name in ATTENDING
        self._attend = jax.jit(functools.partial(read_and_attend, recognizer))

    @property
    def waiting(self) -> int:
        """Images that wait for a batch."""
        return len(self._waiting)

    def compile(self) -> None:
        """Compiles the program of every size, so that no request waits for it."""
        for size in self.sizes:
            self._read(np.zeros((size, *self.recognizer.encoder.image_size, 3), np.uint8))

    async def read(self, image: UInt8[np.ndarray, "height width 3"]) -> Read:
        """What is read of one image of the encoder's size.

        Raises:
          Refused: too many wait already.
        """
        if len(self._waiting) >= self.limit:
            remedy = f"at most {self.limit} images may wait: send them again later"
            raise Refused(503, "images", len(self._waiting), remedy)
        future: asyncio.Future[Read] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, future))
        self._some.set()
        return await future

    async def run(self) -> None:
        """Reads batches until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            count = min(len(self._waiting), self.sizes[-1])
            rows = [self._waiting.popleft() for _ in range(count)]
            if not self._waiting:
                self._some.clear()
            rows = [row for row in rows if not row[1].done()]  # whose client has gone
            if not rows:
                continue
            size = self.sizes[bisect.bisect_left(self.sizes, len(rows))]
            batch = np.zeros((size, *self.recognizer.encoder.image_size, 3), np.uint8)
            batch[: len(rows)] = [image for image, _ in rows]
            try:
                found = await loop.run_in_executor(self._thread, self._read, batch)
            except Exception as error:  # the requests of this batch fail, not the server
                for _, future in rows:
                    if not future.done():
                        future.set_exception(error)
                continue
            self.images, self.batches = self.images + len(rows), self.batches + 1
            for (_, future), read in zip(rows, found, strict=False):
                if not future.done():
                    future.set_result(read)

    def _read(self, batch: np.ndarray) -> list[Read]:
        if not self._attending:
            return [Read(word, None) for word in self.recognizer.reader(batch)]
        reading, weights = self._attend(self.recognizer.weights, batch)
        words = self.recognizer.head.words(reading)
        rows = zip(words, np.asarray(weights), strict=True)
        return [Read(word, seen[: len(word.text)]) for word, seen in rows]
