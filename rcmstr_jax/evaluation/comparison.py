"""Evaluations beside each other: protocols and initialisations, and two runs word by word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcmstr_jax.evaluation.report import MEANS, RESULTS_JSON
from rcmstr_jax.metrics.tables import bounds, show, text_table

# The two initialisations that stand beside each other, as they are called in every table.
INITIALISATIONS = ("random_init", "pretrained")
COMPARED = (
    "word_accuracy",
    "one_minus_ned",
    "word_accuracy_stderr",
    "one_minus_ned_stderr",
    "num_words",
)


def compare(
    frozen: Mapping[str, Mapping[str, Any]], finetuned: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Both protocols and both initialisations beside each other, over all words together.

    Args:
      frozen: results of `run_evaluation` under `"random_init"` and `"pretrained"`.
      finetuned: the same for the other protocol.

    Returns:
      `{"frozen": {"random_init": {...}, "pretrained": {...}}, "finetuned": {...}}`; each holds
      word accuracy, 1-NED and their standard errors in %, and the number of words.

    Raises:
      ValueError: the runs were not scored on the same words under the same policy.
    """
    runs = {
        f"{protocol}/{name}": results[name]
        for protocol, results in (("frozen", frozen), ("finetuned", finetuned))
        for name in INITIALISATIONS
    }
    scored = {
        run: (r["policy"], tuple((s["name"], s["num_words"]) for s in r["sets"]))
        for run, r in runs.items()
    }
    if len(set(scored.values())) != 1:
        raise ValueError(f"these runs were not scored alike, so they cannot be compared: {scored}")
    table: dict[str, dict[str, dict[str, Any]]] = {"frozen": {}, "finetuned": {}}
    for run, results in runs.items():
        protocol, name = run.split("/")
        table[protocol][name] = {field: results["weighted_mean"][field] for field in COMPARED}
    return table


def compare_runs(folder: str | Path) -> dict[str, dict[str, dict[str, Any]]]:
    """`compare` for the workdirs `PROTOCOL_INITIALISATION` below a folder.

    Raises:
      ValueError: a results.json is missing, or the runs were not scored alike.
    """
    found: dict[str, dict[str, Any]] = {"frozen": {}, "finetuned": {}}
    for protocol, results in found.items():
        for name in INITIALISATIONS:
            path = Path(folder) / f"{protocol}_{name}" / RESULTS_JSON
            if not path.is_file():
                raise ValueError(
                    f"--runs={folder}: {path} is missing; run launch/evaluate.py with"
                    f" --workdir={path.parent} first"
                )
            results[name] = json.loads(path.read_text(encoding="utf-8"))
    return compare(found["frozen"], found["finetuned"])


def comparison_table(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The console table of `compare`; gains in points, with the errors of both rows combined."""
    rows: list[tuple[str, ...]] = [("protocol", "encoder", "word accuracy %", "1-NED %", "words")]
    for protocol, results in table.items():
        for name in INITIALISATIONS:
            score = results[name]
            accuracy = show(score["word_accuracy"], score["word_accuracy_stderr"])
            ned = show(score["one_minus_ned"], score["one_minus_ned_stderr"])
            rows.append((protocol, name, accuracy, ned, str(score["num_words"])))
        before, after = (results[name] for name in INITIALISATIONS)
        rows.append(
            (protocol, "gain", gain(before, after, "word_accuracy"))
            + (gain(before, after, "one_minus_ned"), "")
        )
    return text_table(rows)


def gain(before: Mapping[str, Any], after: Mapping[str, Any], field: str) -> str:
    """Difference in points with its standard error, as if the two runs' words were independent."""
    if before[field] is None or after[field] is None:
        return "–"
    errors = [score[f"{field}_stderr"] or 0.0 for score in (before, after)]
    return f"{after[field] - before[field]:+.2f} ± {(errors[0] ** 2 + errors[1] ** 2) ** 0.5:.2f}"


def paired_rows(comparison: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """`intervals.compare_predictions` as a table: differences in points, second less first."""
    header = ("set", "words", "only first right", "only second right", "metric", "first %")
    rows: list[tuple[str, ...]] = [(*header, "second %", "difference", "95 % interval")]
    names = {"word_accuracy": "word accuracy", "one_minus_ned": "1-NED"}
    for name, found in comparison.items():
        for metric, shown in (names | {"character_accuracy": "character accuracy"}).items():
            score = found[metric]
            counts = [str(found[c]) for c in ("num_words", "first_only", "second_only")]
            first = (
                (MEANS.get(name, name), *counts) if metric == "word_accuracy" else ("", "", "", "")
            )
            rates = (show(score["first"]), show(score["second"]), f"{score['difference']:+.2f}")
            rows.append((*first, shown, *rates, bounds(score["interval"])))
    return rows
