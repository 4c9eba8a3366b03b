"""Sections of numbers: scores, intervals, comparisons, where the errors lie, curves."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from rcmstr_jax.evaluation import report
from rcmstr_jax.evaluation.analysis import Analysis
from rcmstr_jax.evaluation.comparison import paired_rows
from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.metrics.calibration import Calibration
from rcmstr_jax.metrics.confusions import Confusion, Group
from rcmstr_jax.metrics.intervals import compare_predictions
from rcmstr_jax.metrics.tables import show
from rcmstr_jax.metrics.words import POLICIES, spread
from rcmstr_jax.reporting import charts
from rcmstr_jax.reporting.elements import Section, Table, folded, gallery, paragraph
from rcmstr_jax.reporting.runs import NO_EVALUATION, Run, evaluations, without

SHOWN_CONFUSIONS = 15
UNFOLDED = 4  # runs whose own tables lie open
Scored = tuple[Run, Evaluation]
_SEED_FOLDER = re.compile(r"/?seed_\d+$")
# Fields that say which runs a command makes, not what one of them is.
_OF_ONE_COMMAND = ("seed", "seeds", "label_shares", "random_beside")


def overview(runs: Sequence[Run]) -> Section:
    """Every run beside every set, and each run's table with what it rests on."""
    scored = evaluations(runs)
    if not scored:
        return Section("Scores", "", [NO_EVALUATION])
    tables = [_beside(scored), *_over_seeds(scored)]
    body = "".join(table.html() for table in tables)
    for run, results in scored:
        apart = "".join(table.html() for table in _apart(run, results))
        body += _folded_if_many(scored, f"{run.name}: every set", apart)
    return Section("Scores", body)


def _folded_if_many(runs: Sequence[Any], summary: str, content: str) -> str:
    return content if len(runs) <= UNFOLDED else folded(summary, content)


def _beside(scored: Sequence[Scored]) -> Table:
    names = list(dict.fromkeys(entry.name for _, results in scored for entry in results.sets))
    rows = [["run", "mean by words", "macro average", *names, "encoder", "decoder"]]
    for run, results in scored:
        sets = {entry.name: entry for entry in results.sets}
        scores = [results.weighted_mean, results.macro_average, *(sets.get(name) for name in names)]
        cells = ["–" if score is None else show(*score.rate("word_accuracy")) for score in scores]
        rows.append([run.name, *cells, results.initialisation, results.decoder])
    policies = sorted({results.policy for _, results in scored})
    notes = [f"Policy {p}: {POLICIES[p]}." for p in policies]
    notes.append("± is one standard error over words. – is a set that the run was not scored on.")
    return Table("Word accuracy %, all runs", rows, notes)


def _over_seeds(scored: Sequence[Scored]) -> list[Table]:
    """Mean and deviation of runs that differ in their seed alone; no table without such runs."""
    groups: dict[str, dict[int, Scored]] = {}
    notes = ["All words together."]
    for run, results in scored:
        groups.setdefault(_all_but_the_seed(results), {})[results.seed] = (run, results)
    header = ["runs", "encoder", "protocol", "decoder", "labels", "seeds"]
    rows = [[*header, "word accuracy %", "1-NED %"]]
    for found in groups.values():
        if len(found) > 1:
            several = [results for _, results in found.values()]
            one = several[0]
            cells = [
                show(*spread([results.weighted_mean.rate(metric)[0] for results in several]))
                for metric in ("word_accuracy", "one_minus_ned")
            ]
            kind = (one.initialisation, one.protocol, one.decoder, f"{one.train.labels_asked:g}")
            names = dict.fromkeys(_SEED_FOLDER.sub("", run.name) for run, _ in found.values())
            seeds = ", ".join(map(str, sorted(found)))
            rows.append([", ".join(names), *kind, seeds, *cells])
            notes.append(report.seeds_note([results.encoder for results in several]))
    return [Table("Mean over seeds", rows, list(dict.fromkeys(notes)))] if len(rows) > 1 else []


def _all_but_the_seed(results: Evaluation) -> str:
    """What two runs must have in common to be two seeds of one experiment."""
    config = {k: v for k, v in results.config.items() if k not in _OF_ONE_COMMAND}
    kind = [results.initialisation, results.protocol, results.decoder]
    words = [results.train.labels_asked, results.train.source]
    sets = [entry.name for entry in results.sets]
    return json.dumps([kind, words, sets, config], sort_keys=True)


def _apart(run: Run, results: Evaluation) -> list[Table]:
    said = [sentence.replace("`", "") for sentence in report.describe(results)]
    by_policy = [["policy", "word accuracy %", "1-NED %", "character accuracy %", "words"]]
    for policy, score in results.policies.items():
        rates = (*report.cells(score), show(score.character_accuracy))
        by_policy.append([policy, *rates, str(score.num_words)])
    notes = [f"{name}: {rule}." for name, rule in POLICIES.items()]
    return [
        Table(f"{run.name}: every set", report.table_rows(results), said),
        Table(f"{run.name}: all words by policy", by_policy, notes),
    ]


def _analyses(runs: Sequence[Run]) -> tuple[list[tuple[Run, Analysis]], list[str]]:
    found = [(run, run.analysis) for run, _ in evaluations(runs)]
    missing = without("predictions.jsonl", [run.name for run, a in found if a is None])
    if not found:
        missing = [NO_EVALUATION]
    return [(run, analysis) for run, analysis in found if analysis is not None], missing


def intervals(runs: Sequence[Run]) -> Section:
    """Bootstrap intervals, and paired comparisons of every run with the first of its words."""
    analysed, missing = _analyses(runs)
    tables = [
        Table(
            f"{run.name}: 95 % intervals",
            report.interval_rows(analysis.intervals),
            ["Bootstrap over words; the macro average resamples every set by itself."],
        )
        for run, analysis in analysed
    ]
    own = gallery([table.html() for table in tables], "tables")
    body = _folded_if_many(analysed, "Intervals of every run", own)
    for run, _ in analysed[1:]:
        first, policy = analysed[0][0], analysed[0][1].policy
        try:
            compared = compare_predictions(first.lines, run.lines, policy=policy)
        except ValueError as error:
            missing.append(f"{first.name} against {run.name}: {error}.")
            continue
        note = f"Second less first, in points; paired bootstrap over words, policy {policy}."
        pair = Table(f"First {first.name}, second {run.name}", paired_rows(compared), [note])
        body += _folded_if_many(analysed, pair.title, pair.html())
    return Section("How sure the scores are", body, missing)


def errors(runs: Sequence[Run]) -> Section:
    """Accuracy by length, source and training vocabulary; calibration; confused characters."""
    analysed, missing = _analyses(runs)
    parts = []
    for title, groups in (
        ("Label length in characters", [a.by_length for _, a in analysed]),
        ("Source", [a.by_source for _, a in analysed]),
        ("Words seen in training", [a.by_seen for _, a in analysed]),
    ):
        grouped = [(run, g) for (run, _), g in zip(analysed, groups, strict=True) if g]
        if grouped:
            parts.append(_by_group(title, grouped).html())
    missing += without("training_words.txt", [run.name for run, a in analysed if not a.by_seen])
    confident = [(run, a.calibration) for run, a in analysed if a.calibration]
    unsure = [run.name for run, analysis in analysed if not analysis.calibration]
    if confident:
        parts.append(_calibration(confident))
    missing += without("confidences in predictions.jsonl", unsure)
    confused = [_confusions(run, a.confusions) for run, a in analysed if a.confusions]
    letters = gallery([table.html() for table in confused], "tables")
    parts.append(_folded_if_many(confused, "Most confused characters of every run", letters))
    return Section("Where the errors lie", "".join(parts), missing)


def _by_group(title: str, grouped: Sequence[tuple[Run, Sequence[Group]]]) -> Table:
    groups = sorted({row.group for _, rows in grouped for row in rows})
    table = [[title.lower(), "words", *(f"{run.name}, accuracy %" for run, _ in grouped)]]
    for group in groups:
        found = [next((r for r in rows if r.group == group), None) for _, rows in grouped]
        counts = {str(row.num_words) for row in found if row is not None}
        cells = ["–" if row is None else show(row.word_accuracy) for row in found]
        table.append([str(group), " / ".join(sorted(counts)), *cells])
    return Table(title, table)


def _calibration(found: Sequence[tuple[Run, Calibration]]) -> str:
    points = [
        (run.colour, [(b.confidence, b.accuracy, b.num_words) for b in c.bins]) for run, c in found
    ]
    chart = charts.reliability_chart("Word accuracy % over confidence %", points)
    rows = [("run", "confidence from %", "to %", "words", "mean confidence %", "accuracy %")]
    for run, calibration in found:
        for b in calibration.bins:
            rates = (show(b.confidence), show(b.accuracy))
            rows.append((run.name, f"{b.low:g}", f"{b.high:g}", str(b.num_words), *rates))
    eces = [f"{run.name}: expected calibration error {c.ece:.2f} %." for run, c in found]
    legend = charts.legend_of([(run.name, run.colour) for run, _ in found])
    table = Table("Reliability of the word confidence", rows, eces)
    return legend + gallery([chart], "charts") + _folded_if_many(found, table.title, table.html())


def _confusions(run: Run, found: Sequence[Confusion]) -> Table:
    rows: list[tuple[str, ...]] = [("in the label", "read as", "times", "share of the character %")]
    for row in found[:SHOWN_CONFUSIONS]:
        shown = (row.label or "(nothing)", row.prediction or "(nothing)")
        rows.append((*shown, str(row.count), show(row.share)))
    return Table(f"{run.name}: most confused characters", rows)


def curves(runs: Sequence[Run]) -> Section:
    """Every metric over the steps, one chart each, all runs in it; losses first."""
    logged = [run for run in runs if run.curves]
    missing = without("metrics.jsonl", [run.name for run in runs if not run.curves])
    names = {name for run in logged for name in run.curves}
    groups: dict[str, list[str]] = {"loss": [], "accuracy": [], "": []}
    for name in sorted(names):
        series = [
            charts.Series(run.name, run.colour, *run.curves[name])
            for run in logged
            if name in run.curves
        ]
        group = next(start for start in groups if name.startswith(start))
        groups[group].append(charts.line_chart(name, series))
    body = charts.legend_of([(run.name, run.colour) for run in logged]) if logged else ""
    body += gallery([*groups["loss"], *groups["accuracy"]], "charts")
    if groups[""]:
        body += folded(f"{len(groups[''])} further curves", gallery(groups[""], "charts"))
    if names:
        points = charts.POINTS
        body += paragraph(f"Curves of more than {points} points are drawn as a moving average.")
    return Section("Learning curves", body, missing)
