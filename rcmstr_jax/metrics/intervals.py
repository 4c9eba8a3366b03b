"""How sure a score is: bootstrap intervals over words, and paired comparisons of two runs.

Every metric is a sum over words divided by another one (right words by words, matched characters by
characters), and so is the difference of two runs on the same words: one resampling serves all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float

from rcmstr_jax.metrics.words import Outcome, in_percent, judge_word, percent

METRICS = ("word_accuracy", "one_minus_ned", "character_accuracy")
RESAMPLES = 2000
LEVEL = 0.95
# Resamples drawn at once hold at most so many numbers.
_BATCH_NUMBERS = 4_000_000


class Line(TypedDict):
    """A line of a predictions.jsonl: a word of a set, and what was read."""

    set: str
    index: int
    label: str | None
    prediction: str
    readable: NotRequired[bool]
    confidence: NotRequired[float | None]
    character_confidences: NotRequired[list[float]]


def judge_lines(lines: Sequence[Line], policy: str) -> list[Outcome | None]:
    """The outcome of every line of a predictions.jsonl; None where the policy leaves no label."""
    return [
        judge_word(
            line["prediction"], line["label"], policy=policy, readable=line.get("readable", True)
        )
        for line in lines
    ]


def ratio(outcomes: Sequence[Outcome], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators, float64 (n,) each, whose sums divided give the metric.

    Raises:
      ValueError: unknown metric.
    """
    table = np.array(outcomes, np.float64).reshape(-1, len(Outcome._fields))
    correct, similarity, edits, characters = table.T
    if metric == "word_accuracy":
        return correct, np.ones_like(correct)
    if metric == "one_minus_ned":
        return similarity, np.ones_like(correct)
    if metric == "character_accuracy":
        return characters - edits, characters
    raise ValueError(f"metric={metric!r} is unknown: choose one of {', '.join(METRICS)}")


def bootstrap(
    numerator: Float[np.ndarray, " words"],
    denominator: Float[np.ndarray, " words"],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Float[np.ndarray, " resamples"]:
    """`sum(numerator) / sum(denominator)` over words drawn with replacement, many times.

    Fewer than two words cannot be resampled: the result is then empty.
    """
    if len(numerator) < 2:
        return np.zeros(0)
    from scipy import stats  # takes a second

    return stats.bootstrap(
        (numerator, denominator),
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _BATCH_NUMBERS // len(numerator)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution


def interval(distribution: Float[np.ndarray, " resamples"]) -> list[float | None]:
    """[low, high] in %, the middle 95 % of a bootstrap; [None, None] for an empty one."""
    if not len(distribution):
        return [None, None]
    low, high = np.quantile(distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [percent(float(low)), percent(float(high))]


def by_set(lines: Sequence[Line], values: Sequence[Any]) -> dict[str, list[Any]]:
    """Groups per-line values by the line's set, in the order of the file; None is left out."""
    groups: dict[str, list[Any]] = {}
    for line, value in zip(lines, values, strict=True):
        group = groups.setdefault(str(line["set"]), [])
        if value is not None:
            group.append(value)
    return groups


def score_intervals(lines: Sequence[Line], policy: str) -> dict[str, dict[str, list[float | None]]]:
    """95 % intervals of every metric for every set and for both means.

    The macro average resamples every set by itself, the weighted one all words together.

    Returns:
      `{set or "weighted_mean" or "macro_average": {metric: [low, high]}}`, in %.
    """
    groups = by_set(lines, judge_lines(lines, policy))
    result: dict[str, dict[str, list[float | None]]] = {}
    for metric in METRICS:
        drawn = {
            name: bootstrap(*ratio(outcomes, metric), seed=number)
            for number, (name, outcomes) in enumerate(groups.items())
        }
        means = [distribution for distribution in drawn.values() if len(distribution)]
        everything = [outcome for outcomes in groups.values() for outcome in outcomes]
        drawn["weighted_mean"] = bootstrap(*ratio(everything, metric), seed=len(groups))
        drawn["macro_average"] = np.mean(means, axis=0) if means else np.zeros(0)
        for name, distribution in drawn.items():
            result.setdefault(name, {})[metric] = interval(distribution)
    return result


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of two runs, the second less the first and its 95 % interval, in %."""

    first: float
    second: float
    difference: float
    interval: list[float | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs over the same words, and how many of them one run alone reads right."""

    num_words: int
    first_only: int
    second_only: int
    word_accuracy: Difference
    one_minus_ned: Difference
    character_accuracy: Difference


def compare_predictions(
    first: Sequence[Line], second: Sequence[Line], *, policy: str = "alphanumeric"
) -> dict[str, Comparison]:
    """Paired bootstrap of two runs over the same words.

    Args:
      first: lines of the one run's predictions.jsonl.
      second: lines of the other's, of the same words in any order.
      policy: a key of `metrics.POLICIES`.

    Returns:
      Per set, and for `"weighted_mean"` and `"macro_average"`.

    Raises:
      ValueError: the runs did not read the same words, or there are none.
    """
    other = _align(first, second)
    before, after = judge_lines(first, policy), judge_lines(other, policy)
    pairs = [
        (a, b) if a is not None and b is not None else None
        for a, b in zip(before, after, strict=True)
    ]
    groups = {name: found for name, found in by_set(first, pairs).items() if found}
    changes = [_changes(found, seed=number) for number, found in enumerate(groups.values())]
    compared = dict(zip(groups, map(_comparison, groups.values(), changes), strict=True))
    everything = [pair for pair in pairs if pair is not None]
    if everything:
        together = _changes(everything, seed=len(groups))
        compared["weighted_mean"] = _comparison(everything, together)
        plain = {metric: _mean_change([found[metric] for found in changes]) for metric in METRICS}
        compared["macro_average"] = _comparison(everything, plain)
    return compared


def _align(first: Sequence[Line], second: Sequence[Line]) -> list[Line]:
    """The second run's lines in the order of the first's."""
    places = {(line["set"], line["index"]): line for line in second}
    aligned = []
    for line in first:
        place = (line["set"], line["index"])
        match = places.get(place)
        if match is None or match["label"] != line["label"]:
            found = "is missing" if match is None else f"has the label {match['label']!r}"
            raise ValueError(
                f"the two results are not of the same words: word {place[1]} of {place[0]}"
                f" ({line['label']!r}) {found} in the second; score both on the same sets"
            )
        aligned.append(match)
    if not aligned or len(places) != len(aligned):
        raise ValueError(
            f"the two results are not of the same words: {len(first)} lines in the first,"
            f" {len(second)} in the second; score both on the same sets"
        )
    return aligned


class _Change(NamedTuple):
    """A metric of both runs, in [0, 1], and resamples of the second less the first."""

    first: float
    second: float
    drawn: np.ndarray


def _changes(pairs: Sequence[tuple[Outcome, Outcome]], *, seed: int) -> dict[str, _Change]:
    """Of every metric."""
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    changes = {}
    for metric in METRICS:
        (one, below), (two, _) = ratio(before, metric), ratio(after, metric)
        first, second = (float(part.sum() / below.sum()) for part in (one, two))
        changes[metric] = _Change(first, second, bootstrap(two - one, below, seed=seed))
    return changes


def _mean_change(sets: Sequence[_Change]) -> _Change:
    """Every set weighs the same, and is resampled by itself; no interval with a set of one word."""
    whole = all(len(change.drawn) for change in sets)
    return _Change(
        float(np.mean([change.first for change in sets])),
        float(np.mean([change.second for change in sets])),
        np.mean([change.drawn for change in sets], axis=0) if whole else np.zeros(0),
    )


def _comparison(
    pairs: Sequence[tuple[Outcome, Outcome]], changes: Mapping[str, _Change]
) -> Comparison:
    """Counts of the pairs, and the changes as they are shown."""
    differences: dict[str, Any] = {
        metric: Difference(
            in_percent(change.first),
            in_percent(change.second),
            in_percent(change.second - change.first),
            interval(change.drawn),
        )
        for metric, change in changes.items()
    }
    return Comparison(
        num_words=len(pairs),
        first_only=sum(a.correct and not b.correct for a, b in pairs),
        second_only=sum(b.correct and not a.correct for a, b in pairs),
        **differences,
    )
