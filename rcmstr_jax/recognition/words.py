"""Which labelled words a recogniser trains on: label filter, nested subsets, images in memory."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcmstr_jax.data.benchmarks import benchmark_place
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.faults import FaultLog, fault_of
from rcmstr_jax.data.records import BadRecord, Record, RecordSource, is_endless, label_of
from rcmstr_jax.data.sources import SINGLE_KINDS, plain_spec, split_of


class Subset:
    """Some records of a source, in a given order."""

    def __init__(self, source: RecordSource, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = indices
        self.name = f"{source.name}[{len(indices)}]"

    def first(self, count: int) -> Subset:
        """The first `count` records."""
        return Subset(self.source, self.indices[:count])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(kw_only=True)
class LabelCounts:
    """What became of the labels; every number is a count of words.

    Attributes:
      available: words in the sources, None for an endless one.
      examined: words whose label was looked at; earlier versions did not count them.
      unlabelled: of these, words without a label or with an empty one.
      outside_charset: words left out for a character that the charset lacks.
      too_long: words left out for their length.
      unreadable: words left out because the image cannot be decoded.
      trained_on: words that remain.
    """

    available: int | None
    examined: int = 0
    unlabelled: int
    outside_charset: int
    too_long: int
    unreadable: int
    trained_on: int


class TrainingWords(NamedTuple):
    """The words to train on.

    Attributes:
      subset: their records.
      texts: their labels, as the charset normalises them.
      counts: what became of the others; brought up to date while images are decoded.
      faults: takes the images that cannot be decoded.
    """

    subset: Subset
    texts: list[str]
    counts: LabelCounts
    faults: FaultLog


def choose_words(
    source: RecordSource,
    *,
    labels: float,
    seed: int,
    charset: Charset,
    max_length: int,
    held_out: int = 0,
    at_end: bool = False,
    faults: FaultLog,
) -> TrainingWords:
    """Draws the labelled subset.

    The words are put into one seeded order. A share (`labels` up to 1) takes the beginning of
    that order and keeps the usable words of it; a number (above 1) goes on until it has so many
    usable words. So subsets of one seed are nested, and do not depend on method or initialisation.
    Words for validation are the end of the order, so that they are the same for all.

    Args:
      source: labelled records.
      labels: share in (0, 1], or a number of words above 1.
      seed: of the order.
      charset: words with a character outside of it are left out and counted.
      max_length: longer words are left out and counted, in characters.
      held_out: records at the end of the order that are not looked at.
      at_end: look at these records alone.
      faults: takes the records that cannot be read at all.

    Raises:
      ValueError: `labels` that the source cannot give, or no usable word.
    """
    total = len(source)
    endless = is_endless(source)
    if endless and labels <= 1:
        raise ValueError(
            f"train.labels={labels}: a share of the endless source {source.name!r} is not defined;"
            " give a number of words, as in train.labels=20000"
        )
    if not endless and labels > total:
        raise ValueError(
            f"train.labels={int(labels)}, but {source.name!r} holds {total} words: ask for fewer,"
            " or train.labels=1.0 for all"
        )
    if held_out and (endless or held_out > total // 2):
        raise ValueError(
            f"train.validation={held_out}: {source.name!r} {'never ends' if endless else 'holds'}"
            f"{'' if endless else f' {total} words'}; hold out at most half of a finite source"
        )
    wanted = int(labels) if labels > 1 else None
    # Streamed words are many: eight bytes for the place of each, and every text held once.
    order: Sequence[int] | np.ndarray = range(total)
    if not endless:
        shuffled = np.random.default_rng(seed).permutation(total)
        order = shuffled[total - held_out :] if at_end else shuffled[: total - held_out]
    limit = len(order) if wanted is not None else max(1, round(labels * total))
    lost = dict.fromkeys(("unlabelled", "outside_charset", "too_long", "unreadable"), 0)
    counts = LabelCounts(available=None if endless else total, trained_on=0, **lost)
    indices = array("q")
    texts: list[str] = []
    distinct: dict[str, str] = {}
    for index in order:
        if counts.examined == limit or len(indices) == wanted:
            break
        counts.examined += 1
        try:
            text = charset.normalize(label_of(source, int(index)) or "")
        except BadRecord as error:
            counts.unreadable += 1
            faults.add(fault_of(error, source, int(index)))
            continue
        if not text:
            counts.unlabelled += 1
            continue
        if charset.lacks(text):
            counts.outside_charset += 1
            continue
        if len(text) > max_length:
            counts.too_long += 1
            continue
        indices.append(int(index))
        texts.append(distinct.setdefault(text, text))
    if not indices:
        raise ValueError(
            f"train.source {source.name!r} has no usable word among {counts.examined} examined:"
            f" {counts.unlabelled} without label, {counts.outside_charset} outside the charset of"
            f" {len(charset)} characters, {counts.too_long} above {max_length} characters"
        )
    counts.trained_on = len(indices)
    return TrainingWords(Subset(source, indices), texts, counts, faults)


def check_sources(sources: Sequence[str], benchmarks: str | Path) -> None:
    """Refuses to train on what is scored, or on one source twice.

    Raises:
      ValueError: a source lies below the benchmark root, its folder holds that root, or it is
        named twice.
    """
    scored, place = benchmark_place(benchmarks)
    root = Path(place).resolve()
    for spec in sources:
        if sources.count(spec) > 1:
            raise ValueError(f"train.source names {spec!r} twice: name every source once")
        kind, _, rest = plain_spec(spec).partition(":")
        if kind not in SINGLE_KINDS or not rest:
            continue
        path = Path(rest).resolve()
        if "tfds" in (kind, scored):  # names, whose splits lie in one folder
            same = kind == scored and split_of(rest) == split_of(place)
        else:
            same = path.is_relative_to(root) or root.is_relative_to(path)
        if same:
            raise ValueError(
                f"train.source={spec!r} overlaps with benchmarks={str(benchmarks)!r}: what is"
                " scored must not be trained on; keep the two in separate folders"
            )
