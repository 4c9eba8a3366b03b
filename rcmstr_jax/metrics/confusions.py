"""Errors by kind: groups of words, and characters that are taken for one another."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from rcmstr_jax.metrics.intervals import Line
from rcmstr_jax.metrics.tables import show
from rcmstr_jax.metrics.words import Outcome, normalize_text, percent

CONFUSIONS_KEPT = 30


@dataclasses.dataclass(frozen=True)
class Group:
    """Words that have something in common: how many, and the three metrics in %."""

    group: str | int
    num_words: int
    word_accuracy: float | None
    one_minus_ned: float | None
    character_accuracy: float | None


def rows_by(
    judged: Sequence[tuple[Line, Outcome]], group: Callable[[Line, Outcome], Any]
) -> list[Group]:
    """One row per group, ordered by its name."""
    groups: dict[Any, list[Outcome]] = {}
    for line, outcome in judged:
        groups.setdefault(group(line, outcome), []).append(outcome)
    return [
        Group(
            name,
            len(found),
            percent(sum(o.correct for o in found) / len(found)),
            percent(math.fsum(o.similarity for o in found) / len(found)),
            percent(1 - sum(o.edits for o in found) / sum(o.characters for o in found)),
        )
        for name, found in sorted(groups.items())
    ]


def group_rows(title: str, groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Groups of words as a table."""
    rows: list[tuple[str, ...]] = [(title, "words", "word accuracy %", "1-NED %")]
    for found in groups:
        rates = (show(found.word_accuracy), show(found.one_minus_ned))
        rows.append((str(found.group), str(found.num_words), *rates))
    return rows


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A single error of alignments of prediction and label.

    Attributes:
      label: a character; "" where one was read too many.
      prediction: what was read for it; "" where it was missed.
      count: how often.
      share: in % of all occurrences of the character in labels; None without one.
    """

    label: str
    prediction: str
    count: int
    share: float | None


def confusions(lines: Sequence[Line], policy: str) -> list[Confusion]:
    """The most frequent single errors of an alignment of prediction and label.

    Of several shortest alignments, the one that RapidFuzz gives is taken. Records that cannot be
    used are left out: nothing was read.

    Returns:
      At most 30, ordered by count, then by the characters.
    """
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    occurrences: collections.Counter[str] = collections.Counter()
    for line in lines:
        if line["label"] is None or not line.get("readable", True):
            continue
        label = normalize_text(line["label"], policy)
        guess = normalize_text(line["prediction"], policy)
        occurrences.update(label)
        for edit in Levenshtein.editops(label, guess):
            true = "" if edit.tag == "insert" else label[edit.src_pos]
            read = "" if edit.tag == "delete" else guess[edit.dest_pos]
            counts[true, read] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        Confusion(true, read, count, percent(count / occurrences[true]) if true else None)
        for (true, read), count in ranked[:CONFUSIONS_KEPT]
    ]
