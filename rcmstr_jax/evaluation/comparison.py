"""Evaluations beside each other: protocols and initialisations, and two runs word by word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rcmstr_jax.evaluation.report import MEANS, cells
from rcmstr_jax.evaluation.results import RESULTS_JSON, Evaluation
from rcmstr_jax.metrics.intervals import Comparison
from rcmstr_jax.metrics.tables import bounds, show, text_table
from rcmstr_jax.metrics.words import Percent, Rates

# The two initialisations that stand beside each other, as they are called in every table.
INITIALISATIONS = ("random_init", "pretrained")


def compare(
    frozen: Mapping[str, Evaluation], finetuned: Mapping[str, Evaluation]
) -> dict[str, dict[str, Percent]]:
    """Both protocols and both initialisations beside each other, over all words together.

    Returns:
      `{"frozen": {"random_init": ..., "pretrained": ...}, "finetuned": {...}}`.

    Raises:
      ValueError: the runs were not scored on the same words under the same policy.
    """
    protocols = {"frozen": frozen, "finetuned": finetuned}
    scored = {
        f"{protocol}/{name}": (
            results[name].policy,
            tuple((entry.name, entry.num_words) for entry in results[name].sets),
        )
        for protocol, results in protocols.items()
        for name in INITIALISATIONS
    }
    if len(set(scored.values())) != 1:
        raise ValueError(f"these runs were not scored alike, so they cannot be compared: {scored}")
    return {
        protocol: {name: results[name].weighted_mean for name in INITIALISATIONS}
        for protocol, results in protocols.items()
    }


def compare_runs(folder: str | Path) -> dict[str, dict[str, Percent]]:
    """`compare` for the workdirs `PROTOCOL_INITIALISATION` below a folder.

    Raises:
      ValueError: a results.json is missing, or the runs were not scored alike.
    """
    found: dict[str, dict[str, Evaluation]] = {"frozen": {}, "finetuned": {}}
    for protocol, results in found.items():
        for name in INITIALISATIONS:
            path = Path(folder) / f"{protocol}_{name}" / RESULTS_JSON
            evaluation = Evaluation.read(path.parent)
            if evaluation is None:
                raise ValueError(
                    f"--runs={folder}: {path} is missing; run launch/evaluate.py with"
                    f" --workdir={path.parent} first"
                )
            results[name] = evaluation
    return compare(found["frozen"], found["finetuned"])


def comparison_table(table: Mapping[str, Mapping[str, Percent]]) -> str:
    """The console table of `compare`; gains in points, with the errors of both rows combined."""
    rows: list[tuple[str, ...]] = [("protocol", "encoder", "word accuracy %", "1-NED %", "words")]
    for protocol, results in table.items():
        for name in INITIALISATIONS:
            score = results[name]
            rows.append((protocol, name, *cells(score), str(score.num_words)))
        before, after = (results[name] for name in INITIALISATIONS)
        gains = (gain(before, after, metric) for metric in ("word_accuracy", "one_minus_ned"))
        rows.append((protocol, "gain", *gains, ""))
    return text_table(rows)


def gain(before: Rates, after: Rates, metric: str) -> str:
    """Difference in points with its standard error, as if the two runs' words were independent."""
    (first, error), (second, other) = before.rate(metric), after.rate(metric)
    if first is None or second is None:
        return "–"
    return f"{second - first:+.2f} ± {math.hypot(error or 0.0, other or 0.0):.2f}"


def paired_rows(comparison: Mapping[str, Comparison]) -> list[tuple[str, ...]]:
    """`intervals.compare_predictions` as a table: differences in points, second less first."""
    header = ("set", "words", "only first right", "only second right", "metric", "first %")
    rows: list[tuple[str, ...]] = [(*header, "second %", "difference", "95 % interval")]
    for name, found in comparison.items():
        counts = (found.num_words, found.first_only, found.second_only)
        first: tuple[str, ...] = (MEANS.get(name, name), *map(str, counts))
        for metric, score in (
            ("word accuracy", found.word_accuracy),
            ("1-NED", found.one_minus_ned),
            ("character accuracy", found.character_accuracy),
        ):
            rates = (show(score.first), show(score.second), f"{score.difference:+.2f}")
            rows.append((*first, metric, *rates, bounds(score.interval)))
            first = ("", "", "", "")
    return rows
