"""What an evaluation leaves behind: console table, results.json, results.md, predictions.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rcmstr_jax.evaluation.metrics import POLICIES

RESULTS_JSON, RESULTS_MD, PREDICTIONS = "results.json", "results.md", "predictions.jsonl"
# The two initialisations that stand beside each other, as they are called in every table.
INITIALISATIONS = ("random_init", "pretrained")
COMPARED = (
    "word_accuracy",
    "one_minus_ned",
    "word_accuracy_stderr",
    "one_minus_ned_stderr",
    "num_words",
)


def show(value: float | None, error: float | None = None) -> str:
    """A rate in % with one standard error: ``43.21 ± 0.50``; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def table_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Header, one row per set, then the two means."""
    rows: list[tuple[str, ...]] = [
        ("set", "words", "right", "word accuracy %", "1-NED %", "unreadable", "no label left")
    ]

    def row(name: str, words: str, score: Mapping[str, Any]) -> tuple[str, ...]:
        return (
            name,
            words,
            str(score.get("num_correct", "")),
            show(score["word_accuracy"], score["word_accuracy_stderr"]),
            show(score["one_minus_ned"], score["one_minus_ned_stderr"]),
            str(score.get("num_unreadable", "")),
            str(score.get("num_empty_labels_left_out", "")),
        )

    for entry in results["sets"]:
        rows.append(row(entry["name"], str(entry["num_words"]), entry))
    weighted, plain = results["weighted_mean"], results["plain_mean"]
    rows.append(row("mean, weighted by words", str(weighted["num_words"]), weighted))
    rows.append(row(f"mean, plain, of {plain['num_sets']} sets", "", plain))
    return rows


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns for a console; the first row is the header, the first column the names."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([lines[0], rule, *lines[1:]])


def describe(results: Mapping[str, Any]) -> list[str]:
    """The sentences that belong under every table: what was trained on, compared and averaged."""
    train, counts = results["train"], results["train"]["labels"]
    available = "endless" if counts["available"] is None else f"{counts['available']} available"
    unseen = results["labels_outside_charset"]
    return [
        f"Protocol {results['protocol']}, decoder {results['decoder']},"
        f" {results['charset']} characters; encoder: {results['initialisation']}"
        f" ({results['encoder'].get('source', 'random')}).",
        f"Case policy `{results['policy']}`: {POLICIES[results['policy']]}.",
        f"Trained on {counts['trained_on']} words of {', '.join(train['source'])}"
        f" ({available}; train.labels={train['labels_asked']:g}; left out: {counts['unlabelled']}"
        f" without label, {counts['outside_charset']} outside the charset, {counts['too_long']} too"
        f" long, {counts['unreadable']} unreadable), {train['steps']} steps of"
        f" {train['batch_size']} words.",
        f"Sets in the means: {', '.join(e['name'] for e in results['sets'] if e['num_words'])}."
        f" {unseen} scored words hold a character that the charset lacks; they count as they are.",
        "1-NED is the mean of 1 - edit distance / max(length of prediction, length of label)."
        " ± is one standard error over the words.",
    ]


def results_markdown(results: Mapping[str, Any]) -> str:
    """results.md: table, what it rests on, the other policies, command line, seed, time."""
    lines = ["# Evaluation", "", markdown_table(table_rows(results)), ""]
    lines += [f"{sentence}\n" for sentence in describe(results)]
    header = ("policy", "word accuracy %", "1-NED %", "words")
    rows = [header]
    for policy, score in results["policies"].items():
        accuracy = show(score["word_accuracy"], score["word_accuracy_stderr"])
        ned = show(score["one_minus_ned"], score["one_minus_ned_stderr"])
        rows.append((policy, accuracy, ned, str(score["num_words"])))
    lines += ["All words together, by case policy:", "", markdown_table(rows), ""]
    lines += [
        f"Command: `{results['command']}`",
        "",
        f"Seed {results['seed']}; {results['seconds']['total']:.0f} s in all, of which"
        f" {results['seconds']['train']:.0f} s training; JAX on {results['device']}.",
        "",
    ]
    return "\n".join(lines)


def write_results(
    workdir: str | Path, results: Mapping[str, Any], predictions: Iterable[Mapping[str, Any]]
) -> None:
    """Writes results.json, results.md and predictions.jsonl, which has one line per word."""
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RESULTS_JSON).write_text(text + "\n", encoding="utf-8")
    (folder / RESULTS_MD).write_text(results_markdown(results), encoding="utf-8")
    with (folder / PREDICTIONS).open("w", encoding="utf-8") as file:
        for line in predictions:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def compare(
    frozen: Mapping[str, Mapping[str, Any]], finetuned: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Both protocols and both initialisations beside each other, over all words together.

    Args:
      frozen: results of ``run_evaluation`` under ``"random_init"`` and ``"pretrained"``.
      finetuned: the same for the other protocol.

    Returns:
      ``{"frozen": {"random_init": {...}, "pretrained": {...}}, "finetuned": {...}}``; each holds
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
    """``compare`` for the workdirs ``PROTOCOL_INITIALISATION`` below a folder.

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
    """The console table of ``compare``; gains in points, with the errors of both rows combined."""
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
