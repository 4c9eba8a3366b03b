"""Reading every word of every benchmark with a trained recogniser."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from rcmstr_jax.data.benchmarks import Benchmark, benchmark_spec, open_benchmark
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.faults import Fault, FaultLog
from rcmstr_jax.data.pipeline import eval_batches
from rcmstr_jax.evaluation.results import Scores, SetScore
from rcmstr_jax.metrics import words as metrics
from rcmstr_jax.metrics.intervals import Line
from rcmstr_jax.recognition.heads import NO_WORD, Word
from rcmstr_jax.recognition.recognizer import Recognizer

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SetResult:
    """What was read of a benchmark set.

    Attributes:
      benchmark: the set; its `fault` says why nothing could be read, "" where something was.
      labels: ground truth, None for records without a usable one.
      predictions: what was read, "" for records that cannot be used.
      readable: per record, whether it can be used.
      confidences: of each word and of its characters, where they are known.
    """

    benchmark: Benchmark
    labels: list[str | None]
    predictions: list[str]
    readable: list[bool]
    confidences: list[tuple[float, tuple[float, ...]]] | None = None

    def score(self, policy: str) -> metrics.Score:
        """The set's score under a case policy."""
        return metrics.score_words(
            self.predictions, self.labels, policy=policy, readable=self.readable
        )

    def lines(self) -> list[Line]:
        """One JSON-ready line per word."""
        name = self.benchmark.name
        words = zip(self.labels, self.predictions, self.readable, strict=True)
        lines: list[Line] = [
            {"set": name, "index": i, "label": label, "prediction": guess, "readable": ok}
            for i, (label, guess, ok) in enumerate(words)
        ]
        for line, (word, characters) in zip(lines, self.confidences or (), strict=False):
            line["confidence"] = round(min(word, 1.0), 4)
            line["character_confidences"] = [round(min(c, 1.0), 4) for c in characters]
        return lines


def score_benchmarks(
    recognizer: Recognizer,
    benchmarks: Sequence[Benchmark],
    *,
    batch_size: int,
    workers: int,
    faults: FaultLog,
) -> list[SetResult]:
    """Reads every word of every set; partial batches are padded, never dropped.

    A record that cannot be used, for whatever reason, is an error, so that a set has as many words
    as it declares. A set that cannot be read at all has no words and says why.
    """
    results = []
    for benchmark in benchmarks:
        if benchmark.fault:
            results.append(_without_words(benchmark, benchmark.fault, faults))
            continue
        words: list[Word] = []
        labels: list[str | None] = []
        readable: list[bool] = []
        source = open_benchmark(benchmark.path)
        with eval_batches(
            source,
            batch_size=batch_size,
            image_size=recognizer.encoder.image_size,
            workers=workers,
            require_text=getattr(source, "labelled", True),  # else the set is refused as a whole
            faults=faults,
        ) as batches:
            for batch in batches:
                real = int((batch["weight"] > 0).sum())
                words += recognizer.reader(batch["image"])[:real]
                labels += batch["text"][:real]
                readable += [bool(valid) for valid in batch["valid"][:real]]
        if not any(labels):
            fault = f"{benchmark.path} holds no usable labels"
            results.append(_without_words(benchmark, fault, faults))
            continue
        words = [word if ok else NO_WORD for word, ok in zip(words, readable, strict=True)]
        results.append(
            SetResult(
                benchmark,
                labels,
                [word.text for word in words],
                readable,
                [(word.confidence, word.characters) for word in words],
            )
        )
        unusable = readable.count(False)
        logger.info("read %s: %d words, %d unusable", benchmark.name, len(labels), unusable)
    return results


def _without_words(benchmark: Benchmark, fault: str, faults: FaultLog) -> SetResult:
    logger.warning("not scored: %s", fault)
    faults.add(Fault(benchmark_spec(benchmark.path), "", "set not scored", fault))
    return SetResult(dataclasses.replace(benchmark, fault=fault), [], [], [])


def count_outside(results: Sequence[SetResult], charset: Charset) -> int:
    """How many labels hold a character that the charset lacks, and so cannot be read whole."""
    labels = [label for result in results for label in result.labels if label is not None]
    return sum(charset.lacks(charset.normalize(label)) for label in labels)


def score_table(read: Sequence[SetResult], policy: str) -> Scores:
    """Scores of every set, both means, and the other policies."""

    def pooled(policy: str) -> metrics.Percent:
        return metrics.weighted_mean(result.score(policy) for result in read).as_percent()

    scored = [result.score(policy) for result in read]
    return Scores(
        policy=policy,
        sets=[
            SetScore(
                name=result.benchmark.name,
                path=str(result.benchmark.path),
                published_size=result.benchmark.accepted,
                fault=result.benchmark.fault,
                **vars(score.as_percent()),
            )
            for result, score in zip(read, scored, strict=True)
        ],
        weighted_mean=pooled(policy),
        macro_average=metrics.macro_average(scored),
        policies={name: pooled(name) for name in metrics.POLICIES},
    )
