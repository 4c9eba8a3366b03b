"""Several evaluations in one command: seeds, shares of the labels, and the random encoder beside.

Each run has a workdir of its own below the command's; `summary.json` and `summary.md` hold means
and deviations over the seeds.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rcmstr_jax.evaluation.protocols import run_evaluation
from rcmstr_jax.evaluation.report import describe, seeds_note
from rcmstr_jax.metrics.tables import markdown_table, show, text_table
from rcmstr_jax.metrics.words import POLICIES
from rcmstr_jax.recognition.encoders import RANDOM, split_pretrained
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import write_json, write_text
from rcmstr_jax.training.plan import evaluation_plan

SUMMARY_JSON, SUMMARY_MD = "summary.json", "summary.md"
SCORES = "scores"
METRICS = ("word_accuracy", "one_minus_ned")


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
) -> list[dict[str, Any]]:
    """Runs everything that the config asks for; what is finished is scored again, not trained.

    Args:
      config: an evaluation config.
      workdir: of the command; None scores a recogniser into `scores/NAME` of its own, after the
        folder of the benchmarks.
      pretrained: see `run_evaluation`.
      **session: `stall_timeout` and `profile_steps` of `run_evaluation`.

    Returns:
      The results of the runs, in their order.

    Raises:
      ConfigError: see `run_evaluation`; or no workdir for a recogniser to be trained in.
    """
    plans = []
    runs = plan_runs(config, pretrained)
    for run in runs:
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.seed, changed.train.labels = run.seed, float(run.labels)
        plans.append(
            evaluation_plan(changed, devices=jax.device_count(), hosts=jax.process_count())
        )
    if workdir is None:
        if config.protocol != "score":
            raise ConfigError("--workdir is missing: name the folder that takes the results")
        workdir = Path(pretrained) / SCORES / Path(config.benchmarks).resolve().name
    results = []
    for number, (run, plan) in enumerate(zip(runs, plans, strict=True), 1):
        if len(runs) > 1:
            print(f"== run {number} of {len(runs)}: {run.folder}", flush=True)
        results.append(run_evaluation(plan, Path(workdir) / run.folder, run.pretrained, **session))
    if len(runs) > 1 and jax.process_index() == 0:
        table = summarise(runs, results)
        write_summary(Path(workdir), table, results[0])
        print(text_table(summary_rows(table)))
        print(f"written: {Path(workdir) / SUMMARY_JSON}, and {SUMMARY_MD} beside it", flush=True)
    return results


def summarise(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per share of labels and initialisation: mean and deviation over the seeds.

    Returns:
      JSON-ready rows with `labels`, `initialisation`, `seeds`, `num_words` and, by set and
      for all words together (`weighted_mean`), per metric `[mean, deviation]` in %; the
      deviation is the sample's (n - 1), None for one seed.
    """
    groups: dict[tuple[float, str], list[tuple[int, Mapping[str, Any]]]] = {}
    for run, result in zip(runs, results, strict=True):
        groups.setdefault((run.labels, run.initialisation), []).append((run.seed, result))
    rows = []
    for (labels, initialisation), found in groups.items():
        rows.append(
            {
                "labels": labels,
                "initialisation": initialisation,
                "seeds": [seed for seed, _ in found],
                "seeds_note": seeds_note([r["encoder"] for _, r in found]),
                "trained_on": [r["train"]["labels"]["trained_on"] for _, r in found],
                "num_words": found[0][1]["weighted_mean"]["num_words"],
                "sets": {
                    entry["name"]: _over_seeds([r["sets"][i] for _, r in found])
                    for i, entry in enumerate(found[0][1]["sets"])
                },
                "weighted_mean": _over_seeds([r["weighted_mean"] for _, r in found]),
                "plain_mean": _over_seeds([r["plain_mean"] for _, r in found]),
            }
        )
    return rows


def _over_seeds(scores: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for metric in METRICS:
        values = [score[metric] for score in scores]
        if any(value is None for value in values):
            found[metric] = [None, None]
            continue
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        deviation = None if math.isnan(spread) else round(spread, 4)
        found[metric] = [round(statistics.fmean(values), 4), deviation]
    return found


def summary_rows(table: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The table of `summarise` for a console or a page."""
    header = ("labels", "encoder", "seeds", "words", "word accuracy %", "1-NED %", "plain mean %")
    rows: list[tuple[str, ...]] = [header]
    for row in table:
        rates = [show(*row["weighted_mean"][metric]) for metric in METRICS]
        rates.append(show(*row["plain_mean"]["word_accuracy"]))
        labels = f"{row['labels']:g}"
        trained = sorted(set(row["trained_on"]))
        words = f"{labels} ({', '.join(map(str, trained))})"
        seeds = ", ".join(map(str, row["seeds"]))
        rows.append((words, row["initialisation"], seeds, str(row["num_words"]), *rates))
    return rows


def write_summary(
    workdir: Path, table: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> None:
    """Writes summary.json and summary.md; `results` are those of any of the runs."""
    write_json(workdir / SUMMARY_JSON, list(table))
    sets = [name for name in table[0]["sets"]]
    header = ("labels", "encoder", *sets)
    by_set: list[tuple[str, ...]] = [header]
    for row in table:
        rates = [show(*row["sets"][name]["word_accuracy"]) for name in sets]
        by_set.append((f"{row['labels']:g}", row["initialisation"], *rates))
    lines = ["# Evaluation", "", markdown_table(summary_rows(table)), ""]
    notes = dict.fromkeys(row["seeds_note"] for row in table if len(row["seeds"]) > 1)
    lines += [" ".join(["Accuracy and 1-NED over all words.", *notes]), ""]
    lines += ["Word accuracy % by set:", "", markdown_table(by_set), ""]
    lines += [f"Case policy `{results['policy']}`: {POLICIES[results['policy']]}.", ""]
    lines += ["One of the runs:", "", *(f"{line}\n" for line in describe(results))]
    lines += [f"Command: `{shlex.join(sys.argv)}`", ""]
    write_text(workdir / SUMMARY_MD, "\n".join(lines))
