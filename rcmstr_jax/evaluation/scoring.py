"""Reading every word of every benchmark with a trained recogniser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.data.benchmarks import Benchmark
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import LmdbSource
from rcmstr_jax.data.pipeline import eval_batches
from rcmstr_jax.evaluation import metrics
from rcmstr_jax.evaluation.encoders import Encoder
from rcmstr_jax.evaluation.words import fit_case, known_characters
from rcmstr_jax.training.decoder_head import DecoderHead

Log = Callable[[str], None]
Tree = Any


@dataclasses.dataclass(frozen=True)
class Recognizer:
    """A trained encoder and decoder, ready to read.

    Attributes:
      encoder: with the parameters and statistics that it reads with.
      head: decoder and charset.
      decoder_params: parameters of the decoder.
    """

    encoder: Encoder
    head: DecoderHead
    decoder_params: Tree

    def reader(self) -> Callable[[np.ndarray], list[str]]:
        """A function uint8 images (B, 32, W, 3) -> strings, compiled once per batch size."""

        def tokens(params: Tree, stats: Tree, decoder: Tree, images: Any) -> Any:
            frames = self.encoder.infer(params, stats, images)
            return self.head.predict(decoder, frames.astype(jnp.float32))

        compiled = jax.jit(tokens)

        def read(images: np.ndarray) -> list[str]:
            arguments = (self.encoder.params, self.encoder.batch_stats, self.decoder_params)
            return self.head.texts(np.asarray(compiled(*arguments, images)))

        return read


@dataclasses.dataclass(frozen=True)
class SetResult:
    """A benchmark set and what was read of it.

    Attributes:
      name: name and size, see ``data.benchmarks``.
      path: where it lies.
      accepted: whether its size is a published one; None where that is not known.
      labels: ground truth, "" for words without.
      predictions: what was read, "" for images that cannot be decoded.
      readable: per word, whether its image could be decoded.
    """

    name: str
    path: str
    accepted: bool | None
    labels: list[str]
    predictions: list[str]
    readable: list[bool]

    def score(self, policy: str) -> metrics.Score:
        """The set's score under a case policy."""
        return metrics.score_words(
            self.predictions, self.labels, policy=policy, readable=self.readable
        )

    def lines(self) -> list[dict[str, Any]]:
        """One JSON-ready line per word."""
        words = zip(self.labels, self.predictions, self.readable, strict=True)
        return [
            {"set": self.name, "index": i, "label": label, "prediction": guess, "readable": ok}
            for i, (label, guess, ok) in enumerate(words)
        ]


def score_benchmarks(
    recognizer: Recognizer,
    benchmarks: Sequence[Benchmark],
    *,
    batch_size: int,
    workers: int,
    faults: FaultLog,
    log: Log,
) -> list[SetResult]:
    """Reads every word of every set; partial batches are padded, never dropped."""
    read = recognizer.reader()
    results = []
    for benchmark in benchmarks:
        guesses: list[str] = []
        labels: list[str] = []
        readable: list[bool] = []
        with eval_batches(
            LmdbSource(benchmark.path),
            batch_size=batch_size,
            image_size=recognizer.encoder.image_size,
            workers=workers,
            faults=faults,
        ) as batches:
            for batch in batches:
                real = int((batch["weight"] > 0).sum())
                guesses += read(batch["image"])[:real]
                labels += [text or "" for text in batch["text"][:real]]
                readable += [bool(valid) for valid in batch["valid"][:real]]
        guesses = [guess if ok else "" for guess, ok in zip(guesses, readable, strict=True)]
        results.append(
            SetResult(
                benchmark.name, str(benchmark.path), benchmark.accepted, labels, guesses, readable
            )
        )
        log(f"read {benchmark.name}: {len(labels)} words")
    return results


def count_outside(results: Sequence[SetResult], charset: Charset) -> int:
    """How many labels hold a character that the charset lacks, and so cannot be read whole."""
    known = known_characters(charset)
    return sum(
        not known.issuperset(fit_case(label, charset))
        for result in results
        for label in result.labels
    )
