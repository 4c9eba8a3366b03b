"""Where a recogniser fails: by length, by source, on unseen words, in which characters, how sure.

Works on the lines of a predictions.jsonl (`set`, `index`, `label`, `prediction`,
`readable` and, where the decoder gives one, `confidence`), so that old results can be analysed
without the model. Rates are in %. Records without a usable label (`label` is null) are errors in
the intervals and by source; they have no length and no spelling.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rcmstr_jax.metrics.calibration import Calibration, calibration
from rcmstr_jax.metrics.confusions import Confusion, Group, confusions, rows_by
from rcmstr_jax.metrics.intervals import Line, judge_lines, score_intervals
from rcmstr_jax.metrics.words import check_policy, normalize_text
from rcmstr_jax.runtime.files import from_json

PREDICTIONS, TRAINING_WORDS, ANALYSIS = "predictions.jsonl", "training_words.txt", "analysis.json"
# Words from this length on share a row.
LONGEST_ROW = 15


def read_predictions(path: str | Path) -> list[Line]:
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


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Everything that the lines of a run show beside its score, as analysis.json holds it.

    Attributes:
      policy: a key of `metrics.words.POLICIES`.
      intervals: see `metrics.intervals.score_intervals`.
      by_length: words by the length of their labels.
      by_source: by set.
      by_seen: by whether the recogniser was trained on them; None where that is not known.
      calibration: None without confidences.
      confusions: the most frequent.
    """

    policy: str
    intervals: dict[str, dict[str, list[float | None]]]
    by_length: list[Group]
    by_source: list[Group]
    by_seen: list[Group] | None
    calibration: Calibration | None
    confusions: list[Confusion]

    @classmethod
    def read(cls, workdir: Path) -> Analysis | None:
        """analysis.json of a workdir; None without."""
        path = workdir / ANALYSIS
        if not path.is_file():
            return None
        return from_json(cls, json.loads(path.read_text(encoding="utf-8")))


def analyse(
    lines: Sequence[Line], *, policy: str = "alphanumeric", training_words: Iterable[str] | None
) -> Analysis:
    """Looks at the lines of a run.

    Args:
      lines: of predictions.jsonl.
      policy: a key of `metrics.words.POLICIES`.
      training_words: labels that the recogniser was trained on, None where they are not known.

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
    by_seen = None
    if training_words is not None:
        seen = {normalize_text(word, policy) for word in training_words}
        by_seen = rows_by(
            labelled,
            lambda line, _: ("unseen", "seen")[normalize_text(line["label"] or "", policy) in seen],
        )
    return Analysis(
        policy=policy,
        intervals=score_intervals(lines, policy),
        by_length=rows_by(labelled, lambda line, o: min(o.characters, LONGEST_ROW)),
        by_source=rows_by(judged, lambda line, _: str(line["set"])),
        by_seen=by_seen,
        calibration=calibration(
            [
                (float(confidence), outcome.correct)
                for line, outcome in judged
                if line.get("readable", True) and (confidence := line.get("confidence")) is not None
            ]
        ),
        confusions=confusions([line for line, _ in judged], policy),
    )
