"""Word accuracy, 1-NED and character accuracy under a stated policy (method section 8).

Every score is a pair (sum, count) until the moment that it is shown, so that scores of several sets
pool exactly: adding two :class:`Score` objects gives the score of the union of their words.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

POLICIES: dict[str, str] = {
    "alphanumeric": "case-insensitive, letters and digits only, on label and prediction",
    "case_sensitive": "case-sensitive, letters and digits only, on label and prediction",
    "symbols": "case-sensitive, with symbols; white space around a word is left out",
}


def check_policy(policy: str) -> str:
    """Returns `policy`; raises ValueError naming the known ones if it is none of them."""
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r} is unknown: choose one of {', '.join(POLICIES)}")
    return policy


def normalize_text(text: str, policy: str = "alphanumeric") -> str:
    """Reduces a label or a prediction to what the policy compares.

    Unicode rule, the same for all policies: compatibility composition (NFKC), and an accented
    letter whose base is ASCII becomes its base (`é` -> `e`); other scripts keep their marks.

    Args:
      text: a label or a prediction.
      policy: a key of `POLICIES`.

    Returns:
      The text that is compared; it may be empty.

    Raises:
      ValueError: unknown policy.
    """
    check_policy(policy)
    text = text.strip()
    if not text.isascii():
        composed = unicodedata.normalize("NFKC", text)
        text = "".join(_ascii_base(character) for character in composed)
    if policy == "symbols":
        return text
    if policy == "alphanumeric":
        text = text.lower()
    return "".join(character for character in text if character.isalnum())


def _ascii_base(character: str) -> str:
    base = unicodedata.normalize("NFKD", character)[0]
    return base if base.isascii() else character


def edit_similarity(prediction: str, label: str) -> float:
    """`1 - edit distance / max(len(prediction), len(label))`; 1 where both are empty.

    The edit distance is Levenshtein's: insertions, deletions and substitutions cost 1 each.
    """
    longest = max(len(prediction), len(label))
    return 1.0 if longest == 0 else 1.0 - Levenshtein.distance(prediction, label) / longest


class Outcome(NamedTuple):
    """What became of one word.

    Attributes:
      correct: whether the normalised prediction equals the normalised label.
      similarity: their `edit_similarity`.
      edits: their edit distance.
      characters: length of the normalised label, at least 1.
    """

    correct: bool
    similarity: float
    edits: int
    characters: int


def judge_word(
    prediction: str, label: str | None, *, policy: str = "alphanumeric", readable: bool = True
) -> Outcome | None:
    """Compares one prediction with its label.

    Args:
      prediction: what was read; not looked at where the image is not `readable`.
      label: ground truth; None for a record whose label is missing or damaged, which is an error:
        one character, missed.
      policy: a key of `POLICIES`, applied to both.
      readable: whether the image could be decoded; if not, the word is an error.

    Returns:
      The outcome, or None where the policy leaves nothing of the label: there is nothing to read.

    Raises:
      ValueError: unknown policy.
    """
    if label is None:
        check_policy(policy)
        return Outcome(correct=False, similarity=0.0, edits=1, characters=1)
    target = normalize_text(label, policy)
    if not target:
        return None
    guess = normalize_text(prediction, policy) if readable else ""
    edits = Levenshtein.distance(guess, target)
    return Outcome(guess == target, edit_similarity(guess, target), edits, len(target))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Word accuracy and 1-NED in %, each with one standard error; None where undefined."""

    word_accuracy: float | None
    one_minus_ned: float | None
    word_accuracy_stderr: float | None
    one_minus_ned_stderr: float | None

    def rate(self, metric: str) -> tuple[float | None, float | None]:
        """One of the two metrics, and its standard error."""
        return getattr(self, metric), getattr(self, f"{metric}_stderr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Percent(Rates):
    """A `Score` in %, with its counts; earlier versions had no character accuracy."""

    character_accuracy: float | None = None
    num_words: int
    num_correct: int
    num_unreadable: int
    num_without_label: int
    num_empty_labels_left_out: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MacroAverage(Rates):
    """The mean over so many sets."""

    num_sets: int


@dataclasses.dataclass(frozen=True)
class Score:
    """Sums over the words of one set, or of several.

    Attributes:
      num_words: words that count in the means (the denominator).
      correct: words whose normalised prediction equals the normalised label.
      similarity: sum of `edit_similarity` over the words.
      similarity_squared: sum of its squares, for the standard error.
      unreadable: words among `num_words` whose image could not be decoded. They are errors.
      unlabelled: words among `num_words` without a usable label. They are errors too, and are not
        counted as unreadable.
      empty_labels: words left out, because the policy leaves nothing of their label.
      edits: sum of the edit distances between normalised prediction and label.
      characters: sum of the lengths of the normalised labels.
    """

    num_words: int = 0
    correct: int = 0
    similarity: float = 0.0
    similarity_squared: float = 0.0
    unreadable: int = 0
    unlabelled: int = 0
    empty_labels: int = 0
    edits: int = 0
    characters: int = 0

    def __add__(self, other: Score) -> Score:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Score(*(mine + theirs for mine, theirs in pairs))

    @property
    def word_accuracy(self) -> float:
        """Share of words that are right, in [0, 1]; NaN for no words."""
        return self.correct / self.num_words if self.num_words else math.nan

    @property
    def one_minus_ned(self) -> float:
        """Mean `edit_similarity`, in [0, 1]; NaN for no words."""
        return self.similarity / self.num_words if self.num_words else math.nan

    @property
    def character_accuracy(self) -> float:
        """`1 - edits / characters` over all labels together; NaN for no words.

        Every character weighs the same, where 1-NED weighs every word the same. Below 0 where more
        is read wrongly than there is.
        """
        return 1.0 - self.edits / self.characters if self.characters else math.nan

    @property
    def word_accuracy_stderr(self) -> float:
        """Binomial standard error `sqrt(p (1 - p) / n)`; NaN for no words."""
        p = self.word_accuracy
        return math.sqrt(p * (1.0 - p) / self.num_words) if self.num_words else math.nan

    @property
    def one_minus_ned_stderr(self) -> float:
        """Sample deviation (n - 1) of the similarity over `sqrt(n)`; NaN below two words."""
        n = self.num_words
        if n < 2:
            return math.nan
        variance = max(self.similarity_squared - n * self.one_minus_ned**2, 0.0) / (n - 1)
        return math.sqrt(variance / n)

    def as_percent(self) -> Percent:
        """The score as it is shown."""
        rates = [field.name for field in dataclasses.fields(Rates)]
        return Percent(
            **{name: percent(getattr(self, name)) for name in (*rates, "character_accuracy")},
            num_words=self.num_words,
            num_correct=self.correct,
            num_unreadable=self.unreadable,
            num_without_label=self.unlabelled,
            num_empty_labels_left_out=self.empty_labels,
        )


def percent(value: float) -> float | None:
    """A rate in [0, 1] as % with four decimals, None for NaN (JSON has no NaN)."""
    return None if math.isnan(value) else in_percent(value)


def in_percent(rate: float) -> float:
    """The same of a rate that is a number."""
    return round(100.0 * rate, 4)


def score_words(
    predictions: Sequence[str],
    labels: Sequence[str | None],
    *,
    policy: str = "alphanumeric",
    readable: Sequence[bool] | None = None,
) -> Score:
    """Scores predictions against labels.

    A word whose image could not be decoded is an error with similarity 0, whatever was predicted,
    and so is one without a usable label: damage must not make a set easier.
    A word of whose label the policy leaves nothing is left out and counted in `empty_labels`:
    there is nothing to read in it.

    Args:
      predictions: n predicted strings.
      labels: n ground-truth strings, None for a missing or damaged one.
      policy: a key of `POLICIES`, applied to both.
      readable: per word, whether its image could be decoded; all of them by default.

    Returns:
      The sums over the words.

    Raises:
      ValueError: lengths differ or the policy is unknown.
    """
    check_policy(policy)
    readable = [True] * len(labels) if readable is None else readable
    if not len(predictions) == len(labels) == len(readable):
        raise ValueError(
            f"predictions ({len(predictions)}), labels ({len(labels)}) and readable"
            f" ({len(readable)}) must have the same length"
        )
    triples = list(zip(predictions, labels, readable, strict=True))
    judged = [judge_word(p, label, policy=policy, readable=ok) for p, label, ok in triples]
    outcomes = [outcome for outcome in judged if outcome is not None]
    similarities = [outcome.similarity for outcome in outcomes]
    unreadable = sum(
        outcome is not None and label is not None and not ok
        for outcome, (_, label, ok) in zip(judged, triples, strict=True)
    )
    return Score(
        num_words=len(outcomes),
        correct=sum(outcome.correct for outcome in outcomes),
        similarity=math.fsum(similarities),
        similarity_squared=math.fsum(value * value for value in similarities),
        unreadable=unreadable,
        unlabelled=sum(label is None for label in labels),
        empty_labels=len(judged) - len(outcomes),
        edits=sum(outcome.edits for outcome in outcomes),
        characters=sum(outcome.characters for outcome in outcomes),
    )


def weighted_mean(scores: Iterable[Score]) -> Score:
    """The score of all words together: every word weighs the same."""
    return sum(scores, Score())


def macro_average(scores: Iterable[Score]) -> MacroAverage:
    """Mean over sets, in %: every set that has words weighs the same.

    The standard error treats the sets as independent: `sqrt(sum of squared errors) / sets`.
    """
    kept = [score for score in scores if score.num_words]
    found: dict[str, float | None] = {}
    for name in ("word_accuracy", "one_minus_ned"):
        errors = [getattr(score, f"{name}_stderr") for score in kept]
        mean, error = math.nan, math.nan
        if kept:
            mean = math.fsum(getattr(score, name) for score in kept) / len(kept)
            error = math.sqrt(math.fsum(e * e for e in errors)) / len(kept)
        found |= {name: percent(mean), f"{name}_stderr": percent(error)}
    return MacroAverage(num_sets=len(kept), **found)


Spread = tuple[float | None, float | None]
"""Mean and sample deviation (n - 1) over the seeds; None for one seed."""


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and sample deviation, of which there is none for one value; neither if one is None."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None
    deviation = round(statistics.stdev(known), 4) if len(known) > 1 else None
    return round(statistics.fmean(known), 4), deviation
