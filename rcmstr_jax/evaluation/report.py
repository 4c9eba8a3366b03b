"""What an evaluation leaves behind: tables, results.json, analysis.json, predictions.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rcmstr_jax.evaluation.analysis import ANALYSIS, PREDICTIONS, TRAINING_WORDS, Analysis, analyse
from rcmstr_jax.evaluation.results import RESULTS_JSON, Evaluation, Scores
from rcmstr_jax.metrics.confusions import group_rows
from rcmstr_jax.metrics.intervals import Line
from rcmstr_jax.metrics.tables import bounds, markdown_table, show
from rcmstr_jax.metrics.words import POLICIES, Percent, Rates
from rcmstr_jax.runtime.files import write_json, write_text

RESULTS_MD = "results.md"
FLAG = " (!)"
MEANS = {"weighted_mean": "mean, weighted by words", "macro_average": "macro average"}


def cells(rates: Rates) -> tuple[str, str]:
    """Word accuracy and 1-NED with their standard errors."""
    return show(*rates.rate("word_accuracy")), show(*rates.rate("one_minus_ned"))


def table_rows(results: Scores) -> list[tuple[str, ...]]:
    """Header, one row per set, then the two means."""
    header = ("set", "words", "right", "word accuracy %", "1-NED %", "unreadable")
    rows: list[tuple[str, ...]] = [(*header, "without label", "no label left")]

    def row(name: str, score: Percent) -> tuple[str, ...]:
        lost = (score.num_unreadable, score.num_without_label, score.num_empty_labels_left_out)
        counts = (str(score.num_words), str(score.num_correct))
        return (name, *counts, *cells(score), *map(str, lost))

    for entry in results.sets:
        flag = FLAG if entry.published_size is False or entry.is_empty else ""
        rows.append(row(entry.name + flag, entry))
    rows.append(row(MEANS["weighted_mean"], results.weighted_mean))
    plain = results.macro_average
    rows.append((f"macro average of {plain.num_sets} sets", "", "", *cells(plain), "", "", ""))
    return rows


def describe(results: Evaluation) -> list[str]:
    """The sentences that belong under every table: what was trained on, compared and averaged."""
    train, counts = results.train, results.train.labels
    available = "endless" if counts.available is None else f"{counts.available} available"
    flags = {
        "the name is known, this number of words is not": [
            e.name for e in results.sets if e.published_size is False
        ],
        "nothing in it can be read, faults.json says why": [
            e.name for e in results.sets if e.is_empty and not e.fault
        ],
        **{f"not scored, {e.fault}": [e.name] for e in results.sets if e.fault},
    }
    statistics = results.encoder.get("statistics")
    calibrated = f"Its batch statistics are {statistics} of training words, its weights as drawn."
    return [
        f"Protocol {results.protocol}, decoder {results.decoder},"
        f" {results.charset} characters; encoder: {results.initialisation}"
        f" ({results.encoder.get('source', 'random')}).{f' {calibrated}' if statistics else ''}",
        f"Case policy `{results.policy}`: {POLICIES[results.policy]}.",
        f"Trained on {counts.trained_on} words of {', '.join(train.source)}"
        f" ({available}; train.labels={train.labels_asked:g}; left out: {counts.unlabelled}"
        f" without label, {counts.outside_charset} outside the charset, {counts.too_long} too"
        f" long, {counts.unreadable} unreadable), {train.steps} steps of"
        f" {train.batch_size} words.",
        f"Sets in the means: {', '.join(e.name for e in results.sets if e.num_words)}."
        f" {results.labels_outside_charset} scored words hold a character that the charset lacks;"
        " they count as they are.",
        "1-NED is the mean of 1 - edit distance / max(length of prediction, length of label)."
        " ± is one standard error over the words.",
        *(f"{FLAG.strip()} {', '.join(names)}: {why}." for why, names in flags.items() if names),
    ]


def seeds_note(encoders: Sequence[Mapping[str, Any]]) -> str:
    """What the deviation over the seeds of results with these `encoder`s says, and what not."""
    named = {tuple(e.get(key) for key in ("source", "step", "of", "seed")) for e in encoders}
    same = "the encoder is the same" if len(named) == 1 else "every seed has an encoder of its own"
    return (
        "± is the sample deviation over the seeds, which vary decoder, order, augmentation and"
        f" (without train.subset_seed) the label subset; {same}."
    )


def interval_rows(
    intervals: Mapping[str, Mapping[str, Sequence[float | None]]],
) -> list[tuple[str, ...]]:
    """The 95 % intervals of `intervals.score_intervals` as a table."""
    rows: list[tuple[str, ...]] = [
        ("95 % interval", "word accuracy %", "1-NED %", "character accuracy %")
    ]
    rows += [(MEANS.get(n, n), *map(bounds, found.values())) for n, found in intervals.items()]
    return rows


def results_markdown(results: Evaluation, analysis: Analysis | None = None) -> str:
    """results.md: table, what it rests on, the other policies, command line, seed, time."""
    lines = ["# Evaluation", "", markdown_table(table_rows(results)), ""]
    lines += [f"{sentence}\n" for sentence in describe(results)]
    header = ("policy", "word accuracy %", "1-NED %", "words")
    rows = [header]
    for policy, score in results.policies.items():
        rows.append((policy, *cells(score), str(score.num_words)))
    lines += ["All words together, by case policy:", "", markdown_table(rows), ""]
    if analysis is not None:
        lines += ["Bootstrap over words:", "", markdown_table(interval_rows(analysis.intervals))]
        for title, groups in (
            ("label length", analysis.by_length),
            ("in training words", analysis.by_seen),
        ):
            if groups:
                lines += ["", markdown_table(group_rows(title, groups))]
        if analysis.calibration:
            ece = analysis.calibration.ece
            lines += ["", f"Expected calibration error of the word confidence: {ece:.2f} %."]
        lines += [""]
    lines += [
        f"Command: `{results.command}`",
        "",
        f"Seed {results.seed}; {results.seconds['total']:.0f} s in all, of which"
        f" {results.seconds['train']:.0f} s training; JAX on {results.device}.",
        "",
    ]
    return "\n".join(lines)


def write_results(
    workdir: str | Path,
    results: Evaluation,
    predictions: Iterable[Line],
    training_words: Iterable[str] | None = None,
) -> None:
    """Writes what a run found.

    Args:
      workdir: made where it is missing.
      results: what `run_evaluation` returns: results.json and results.md.
      predictions: one line per word: predictions.jsonl, and what it shows: analysis.json.
      training_words: labels the recogniser was trained on: training_words.txt, each once.
    """
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    lines = list(predictions)
    known = None if training_words is None else sorted(set(training_words))
    analysis = analyse(lines, policy=results.policy, training_words=known)
    write_json(folder / RESULTS_JSON, results)
    write_json(folder / ANALYSIS, analysis)
    write_text(folder / RESULTS_MD, results_markdown(results, analysis))
    read = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(folder / PREDICTIONS, read)
    if known is not None:
        write_text(folder / TRAINING_WORDS, "".join(f"{w}\n" for w in known))
