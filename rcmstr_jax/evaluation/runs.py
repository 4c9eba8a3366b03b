"""Several evaluations in one command: seeds, shares of the labels, and the random encoder beside.

Each run has a workdir of its own below the command's; `summary.json` and `summary.md` hold means
and deviations over the seeds.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from ml_collections import ConfigDict

from rcmstr_jax.data.benchmarks import benchmark_place
from rcmstr_jax.evaluation.protocols import run_evaluation
from rcmstr_jax.evaluation.report import describe, seeds_note
from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.metrics.tables import markdown_table, show, text_table
from rcmstr_jax.metrics.words import POLICIES, Rates, Spread, spread
from rcmstr_jax.recognition.encoders import RANDOM, split_pretrained
from rcmstr_jax.recognition.saved import default_scores
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import write_json, write_text
from rcmstr_jax.training.plan import evaluation_plan

SUMMARY_JSON, SUMMARY_MD = "summary.json", "summary.md"
METRICS = ("word_accuracy", "one_minus_ned")
NO_WORKDIR = "--workdir is missing: name the folder that takes the results"
Plan = TypeVar("Plan")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluation of a command.

    Attributes:
      folder: its workdir below the command's; "" for a single run, which has that one itself.
      initialisation: "pretrained" or "random_init".
      pretrained: what it starts from, as `--pretrained` spells it.
      labels: `train.labels`.
      seed: `seed`.
    """

    folder: str
    initialisation: str
    pretrained: str
    labels: float
    seed: int


def plan_runs(config: ConfigDict, pretrained: str) -> list[Run]:
    """The runs that `seeds`, `label_shares` and `random_beside` ask for."""
    is_random = split_pretrained(pretrained)[0]
    starts = {"random_init" if is_random else "pretrained": pretrained}
    trains = config.protocol != "score"
    if trains and config.random_beside and not is_random:
        starts = {"random_init": f"{RANDOM}:{pretrained}", **starts}
    seeds = tuple(config.seeds) if trains and config.seeds else (config.seed,)
    several_labels = bool(trains and config.label_shares)
    shares = tuple(config.label_shares) if several_labels else (config.train.labels,)
    runs = []
    for labels in shares:
        for seed in seeds:
            for name, start in starts.items():
                parts = [f"labels_{labels:g}"] if several_labels else []
                parts += [name] if len(starts) > 1 else []
                parts += [f"seed_{seed}"] if len(seeds) > 1 else []
                runs.append(Run("/".join(parts), name, start, labels, seed))
    return runs


def run_all(
    config: ConfigDict, workdir: str | Path | None, pretrained: str, **session: Any
) -> list[Evaluation]:
    """Runs everything that the config asks for; what is finished is scored again, not trained.

    Args:
      config: an evaluation config.
      workdir: of the command; None scores a recogniser into `scores/NAME` of its own workdir, after
        the folder of the benchmarks, and packaged or given weights into `scores/WEIGHTS/NAME` here.
      pretrained: see `run_evaluation`.
      **session: options of `run_evaluation`.

    Returns:
      The results of the runs, in their order.

    Raises:
      ConfigError: see `run_evaluation`; or no workdir for a recogniser to be trained in.
    """
    runs = plan_runs(config, pretrained)
    plans = run_plans(config, runs, evaluation_plan)
    if workdir is None:
        if config.protocol != "score":
            raise ConfigError(NO_WORKDIR)
        _, place = benchmark_place(config.benchmarks)
        workdir = default_scores(pretrained) / Path(place).resolve().name
    results = run_each(runs, plans, workdir, run_evaluation, **session)
    if len(runs) > 1 and jax.process_index() == 0:
        table = summarise(runs, results)
        write_summary(Path(workdir), table, results[0])
        print(text_table(summary_rows(table)))
        print(f"written: {Path(workdir) / SUMMARY_JSON}, and {SUMMARY_MD} beside it", flush=True)
    return results


def run_plans(config: ConfigDict, runs: Sequence[Run], plan: Callable[..., Plan]) -> list[Plan]:
    """A plan of each run, all of them before any begins; `plan` makes one of a config."""
    plans = []
    for run in runs:
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.seed, changed.train.labels = run.seed, float(run.labels)
        plans.append(plan(changed, devices=jax.device_count(), hosts=jax.process_count()))
    return plans


def run_each(
    runs: Sequence[Run],
    plans: Sequence[Plan],
    workdir: str | Path,
    evaluate: Callable[..., Result],
    **session: Any,
) -> list[Result]:
    """`evaluate(plan, workdir, pretrained, **session)` of each run, in a folder of its own."""
    results = []
    for number, (run, plan) in enumerate(zip(runs, plans, strict=True), 1):
        if len(runs) > 1:
            print(f"== run {number} of {len(runs)}: {run.folder}", flush=True)
        results.append(evaluate(plan, Path(workdir) / run.folder, run.pretrained, **session))
    return results


@dataclasses.dataclass(frozen=True)
class Summary:
    """A share of the labels and an initialisation, over the seeds.

    Attributes:
      labels: `train.labels`.
      initialisation: "pretrained" or "random_init".
      seeds: of the runs.
      seeds_note: what the deviation says.
      trained_on: words of each run.
      num_words: that are scored.
      sets: name -> metric -> mean and deviation.
      weighted_mean: metric -> mean and deviation.
      macro_average: the same.
    """

    labels: float
    initialisation: str
    seeds: list[int]
    seeds_note: str
    trained_on: list[int]
    num_words: int
    sets: dict[str, dict[str, Spread]]
    weighted_mean: dict[str, Spread]
    macro_average: dict[str, Spread]


def summarise(runs: Sequence[Run], results: Sequence[Evaluation]) -> list[Summary]:
    """One row per share of labels and initialisation."""
    groups: dict[tuple[float, str], list[tuple[int, Evaluation]]] = {}
    for run, result in zip(runs, results, strict=True):
        groups.setdefault((run.labels, run.initialisation), []).append((run.seed, result))
    rows = []
    for (labels, initialisation), found in groups.items():
        alike = [result for _, result in found]
        rows.append(
            Summary(
                labels,
                initialisation,
                [seed for seed, _ in found],
                seeds_note([result.encoder for result in alike]),
                [result.train.labels.trained_on for result in alike],
                alike[0].weighted_mean.num_words,
                {
                    entry.name: _over_seeds([result.sets[i] for result in alike])
                    for i, entry in enumerate(alike[0].sets)
                },
                _over_seeds([result.weighted_mean for result in alike]),
                _over_seeds([result.macro_average for result in alike]),
            )
        )
    return rows


def _over_seeds(scores: Sequence[Rates]) -> dict[str, Spread]:
    return {metric: spread([score.rate(metric)[0] for score in scores]) for metric in METRICS}


def summary_rows(table: Sequence[Summary]) -> list[tuple[str, ...]]:
    """The table of `summarise` for a console or a page."""
    header = (
        "labels",
        "encoder",
        "seeds",
        "words",
        "word accuracy %",
        "1-NED %",
        "macro average %",
    )
    rows: list[tuple[str, ...]] = [header]
    for row in table:
        rates = [show(*row.weighted_mean[metric]) for metric in METRICS]
        rates.append(show(*row.macro_average["word_accuracy"]))
        trained = sorted(set(row.trained_on))
        words = f"{row.labels:g} ({', '.join(map(str, trained))})"
        seeds = ", ".join(map(str, row.seeds))
        rows.append((words, row.initialisation, seeds, str(row.num_words), *rates))
    return rows


def write_summary(workdir: Path, table: Sequence[Summary], results: Evaluation) -> None:
    """Writes summary.json and summary.md; `results` are those of any of the runs."""
    write_json(workdir / SUMMARY_JSON, list(table))
    sets = list(table[0].sets)
    by_set: list[tuple[str, ...]] = [("labels", "encoder", *sets)]
    for row in table:
        rates = [show(*row.sets[name]["word_accuracy"]) for name in sets]
        by_set.append((f"{row.labels:g}", row.initialisation, *rates))
    lines = ["# Evaluation", "", markdown_table(summary_rows(table)), ""]
    notes = dict.fromkeys(row.seeds_note for row in table if len(row.seeds) > 1)
    lines += [" ".join(["Accuracy and 1-NED over all words.", *notes]), ""]
    lines += ["Word accuracy % by set:", "", markdown_table(by_set), ""]
    lines += [f"Case policy `{results.policy}`: {POLICIES[results.policy]}.", ""]
    lines += ["One of the runs:", "", *(f"{line}\n" for line in describe(results))]
    lines += [f"Command: `{shlex.join(sys.argv)}`", ""]
    write_text(workdir / SUMMARY_MD, "\n".join(lines))
