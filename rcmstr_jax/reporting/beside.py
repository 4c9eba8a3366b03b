"""The picture that opens a report: pretrained beside random, per protocol and number of labels."""

from __future__ import annotations

from collections.abc import Sequence

from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.reporting import charts
from rcmstr_jax.reporting.elements import Section, paragraph
from rcmstr_jax.reporting.runs import NO_EVALUATION, Run, evaluations

KINDS = {"random_init": "random initialisation", "pretrained": "pretrained"}


def beside_random(runs: Sequence[Run]) -> Section:
    """Word accuracy of both initialisations under each protocol, one bar for each seed.

    Runs that were scored only, and settings that one initialisation alone was given, are not in it.
    """
    settings: dict[tuple[str, int, str], dict[str, list[charts.Bar]]] = {}
    for run, results in evaluations(runs):
        accuracy = results.weighted_mean.word_accuracy
        trained = results.protocol != "score" and results.initialisation in KINDS
        if trained and accuracy is not None:
            kinds = settings.setdefault(_setting(results), {kind: [] for kind in KINDS})
            kinds[results.initialisation].append(_bar(run, results, accuracy))
    both = {setting: kinds for setting, kinds in settings.items() if all(kinds.values())}
    title = "Pretrained beside random initialisation"
    if not both:
        alone = "no protocol was run from both initialisations"
        return Section(title, "", [f"{alone}." if settings else NO_EVALUATION])
    rows = [
        (f"{protocol}, {decoder}, {labels:,} labels", [b for k in KINDS for b in kinds[k]])
        for (protocol, labels, decoder), kinds in sorted(both.items())
    ]
    legend = charts.legend_of([(name, colour) for colour, name in enumerate(KINDS.values())])
    note = "All scored words together; bars are 95 % intervals (bootstrap over words), one a seed."
    chart = charts.interval_chart("Words read right, %", rows)
    return Section(title, legend + chart + paragraph(note))


def _setting(results: Evaluation) -> tuple[str, int, str]:
    return results.protocol, results.train.labels.trained_on, results.decoder


def _bar(run: Run, results: Evaluation, value: float) -> charts.Bar:
    """Accuracy and, where the run kept its predictions, the interval."""
    bounds: list[float | None] = [None, None]
    if run.analysis is not None:
        bounds = run.analysis.intervals["weighted_mean"]["word_accuracy"]
    low, high = (value if bound is None else bound for bound in bounds)
    colour = list(KINDS).index(results.initialisation)
    tip = f"{run.name}: {value:.2f} % ({low:.2f} to {high:.2f})"
    return charts.Bar(colour, value, low, high, tip)
