"""Where a recogniser fails: by length, by source, on unseen words, in which characters, how sure.

Works on the lines of a predictions.jsonl (`set`, `index`, `label`, `prediction`,
`readable` and, where the decoder gives one, `confidence`), so that old results can be analysed
without the model. Rates are in %. Records without a usable label (`label` is null) are errors in
the intervals and by source; they have no length and no spelling.
"""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from rcmstr_jax.metrics.intervals import Line, judge_lines, score_intervals
from rcmstr_jax.metrics.words import Outcome, check_policy, normalize_text, percent

PREDICTIONS, TRAINING_WORDS, ANALYSIS = "predictions.jsonl", "training_words.txt", "analysis.json"
CALIBRATION_BINS = 10
CONFUSIONS_KEPT = 30
# Words from this length on share a row.
LONGEST_ROW = 15


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a predictions.jsonl, or of the one in a workdir.

    Raises:
      ValueError: no such file, or a line that is no prediction.
    """
    path = Path(path)
    path = path / PREDICTIONS if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: give the workdir of launch/evaluate.py, or its {PREDICTIONS}"
        )
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            missing = {"set", "index", "label", "prediction"} - line.keys()
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: no JSON object: {text[:60]!r}") from error
        if missing:
            raise ValueError(f"{path}, line {number}: lacks {', '.join(sorted(missing))}")
        lines.append(line)
    return lines


def read_training_words(workdir: str | Path) -> set[str] | None:
    """The words a recogniser was trained on, as it left them in its workdir; None without."""
    path = Path(workdir) / TRAINING_WORDS
    return set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else None


def analyse(
    lines: Sequence[Line], *, policy: str = "alphanumeric", training_words: Iterable[str] | None
) -> dict[str, Any]:
    """Everything that the lines of a run show beside its score.

    Args:
      lines: of predictions.jsonl.
      policy: a key of `metrics.POLICIES`.
      training_words: labels that the recogniser was trained on, None where they are not known.

    Returns:
      JSON-ready: `policy`, `intervals` (see `score_intervals`), `by_length`, `by_source`,
      `by_seen` (None without training words), `calibration` (None without confidences) and
      `confusions`.

    Raises:
      ValueError: unknown policy.
    """
    check_policy(policy)
    judged = [
        (line, outcome)
        for line, outcome in zip(lines, judge_lines(lines, policy), strict=True)
        if outcome is not None
    ]
    labelled = [(line, outcome) for line, outcome in judged if line["label"] is not None]
    seen = None if training_words is None else {normalize_text(w, policy) for w in training_words}
    return {
        "policy": policy,
        "intervals": score_intervals(lines, policy),
        "by_length": rows_by(labelled, lambda line, outcome: min(outcome.characters, LONGEST_ROW)),
        "by_source": rows_by(judged, lambda line, outcome: str(line["set"])),
        "by_seen": None
        if seen is None
        else rows_by(labelled, lambda line, _: _seen(line, policy, seen)),
        "calibration": calibration(
            [
                (float(line["confidence"]), outcome.correct)
                for line, outcome in judged
                if line.get("confidence") is not None and line.get("readable", True)
            ]
        ),
        "confusions": confusions([line for line, _ in judged], policy),
    }


def _seen(line: Line, policy: str, words: Collection[str]) -> str:
    return "seen" if normalize_text(line["label"], policy) in words else "unseen"


def rows_by(
    judged: Sequence[tuple[Line, Outcome]], group: Callable[[Line, Outcome], Any]
) -> list[dict[str, Any]]:
    """One row per group: its name, words, and the three metrics; ordered by the name."""
    groups: dict[Any, list[Outcome]] = {}
    for line, outcome in judged:
        groups.setdefault(group(line, outcome), []).append(outcome)
    return [
        {
            "group": name,
            "num_words": len(found),
            "word_accuracy": percent(sum(o.correct for o in found) / len(found)),
            "one_minus_ned": percent(math.fsum(o.similarity for o in found) / len(found)),
            "character_accuracy": percent(
                1 - sum(o.edits for o in found) / sum(o.characters for o in found)
            ),
        }
        for name, found in sorted(groups.items())
    ]


def calibration(words: Sequence[tuple[float, bool]]) -> dict[str, Any] | None:
    """Reliability of the confidences: does the decoder read right as often as it says?

    Args:
      words: per word its confidence in [0, 1] and whether it was read right.

    Returns:
      `ece`: the expected calibration error, the mean over words of the gap between confidence
      and accuracy of the word's bin (ten bins of equal width, the upper end belongs to the bin),
      in %; `bins`: per bin that holds words its range, words, mean confidence and accuracy.
      None for no words.

    Raises:
      ValueError: a confidence outside [0, 1].
    """
    if not words:
        return None
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, correct in words:
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence={confidence}: must lie in [0, 1]")
        number = max(math.ceil(confidence * CALIBRATION_BINS) - 1, 0)
        bins.setdefault(number, []).append((confidence, correct))
    rows, error = [], 0.0
    for number, found in sorted(bins.items()):
        mean = math.fsum(confidence for confidence, _ in found) / len(found)
        accuracy = sum(correct for _, correct in found) / len(found)
        error += abs(mean - accuracy) * len(found)
        rows.append(
            {
                "low": round(100 * number / CALIBRATION_BINS, 4),
                "high": round(100 * (number + 1) / CALIBRATION_BINS, 4),
                "num_words": len(found),
                "confidence": percent(mean),
                "accuracy": percent(accuracy),
            }
        )
    return {"ece": percent(error / len(words)), "num_words": len(words), "bins": rows}


def confusions(lines: Sequence[Line], policy: str) -> list[dict[str, Any]]:
    """The most frequent single errors of an alignment of prediction and label.

    Of several shortest alignments, the one that RapidFuzz gives is taken. Records that cannot be
    used are left out: nothing was read.

    Returns:
      At most 30 rows `{"label": character, "prediction": character, "count": n, "share": %}`,
      `share` being of all occurrences of the character in labels; "" in `prediction` is a
      character that was missed, "" in `label` one too many (its share is None). Ordered by
      count, then by the characters.
    """
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    occurrences: collections.Counter[str] = collections.Counter()
    for line in lines:
        if not line.get("readable", True):
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
        {
            "label": true,
            "prediction": read,
            "count": count,
            "share": percent(count / occurrences[true]) if true else None,
        }
        for (true, read), count in ranked[:CONFUSIONS_KEPT]
    ]
