"""The protocols of dense tasks: train a head on an encoder, score it beside its baseline."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.dense.fitting import obtain_network, open_words, prepare
from rcmstr_jax.dense.network import DenseNetwork
from rcmstr_jax.dense.results import (
    TITLES,
    DenseEvaluation,
    DenseTraining,
    describe,
    results_markdown,
    show_spread,
    table_rows,
)
from rcmstr_jax.dense.scoring import NETWORK, score_set
from rcmstr_jax.evaluation.protocols import reported_as_config_error
from rcmstr_jax.evaluation.report import RESULTS_MD, seeds_note
from rcmstr_jax.evaluation.results import RESULTS_JSON
from rcmstr_jax.evaluation.runs import (
    NO_WORKDIR,
    SUMMARY_MD,
    Run,
    plan_runs,
    run_each,
    run_plans,
)
from rcmstr_jax.metrics.tables import markdown_table, text_table
from rcmstr_jax.metrics.words import spread
from rcmstr_jax.recognition.fitting import Clock
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import from_json, write_json, write_text
from rcmstr_jax.training.dense_plan import DensePlan, dense_plan
from rcmstr_jax.training.loop import open_session


def run_dense(
    plan: DensePlan,
    workdir: str | Path,
    pretrained: str,
    *,
    command: str | None = None,
    **options: Any,
) -> DenseEvaluation:
    """Trains a network on labelled images, and scores it on every set.

    Run again, it goes on with an interrupted training, and scores a finished network anew.

    Args:
      workdir: where the network, results.json, results.md, metrics.jsonl, faults.json and a sheet
        of pictures per set, pictures/NUMBER.png, are written.
      pretrained: see `recognition.encoders.load_encoder`; `random` for the plan's own model.
      command: the command line for the report; `sys.argv` by default.
      **options: see `training.loop.open_session`.

    Raises:
      ConfigError: impossible words or pretrained folder, or a workdir that holds another run.
      Stopped: training was interrupted; its state is saved.
    """
    clock = Clock()
    with open_session(
        workdir,
        compilation_cache=plan.loop.compilation_cache,
        **options,
    ) as session:
        with reported_as_config_error():
            reader = _reader(plan.recognizer)
            task = prepare(plan, session, pretrained)
            sources = [open_words(plan, spec, task.encoder) for spec in plan.benchmarks]
        network = obtain_network(task, clock)
        faults, scored = session.faults(), []
        for number, source in enumerate(sources):
            picture = session.workdir / f"pictures/set_{number}.png" if session.leads else None
            scored.append(score_set(network, source, faults, picture, reader))
        faults.write()
        speed = images_per_second(network)
        clock.mark("score")
        about = network.description
        results = DenseEvaluation(
            task=plan.task,
            protocol=about["protocol"],
            initialisation=about["initialisation"],
            encoder=about["encoder"],
            seed=about["seed"],
            train=from_json(DenseTraining, about["train"]),
            scored=scored,
            recognizer=plan.recognizer,
            images_per_second=speed,
            command=command or shlex.join(sys.argv),
            device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            seconds=clock.report(),
            config=dict(plan.config),
        )
        if session.leads:
            write_json(session.workdir / RESULTS_JSON, results)
            write_text(session.workdir / RESULTS_MD, results_markdown(results))
            for one in scored:
                print(f"{one.name}: {one.images} images")
                print(text_table(table_rows(one)))
            print("\n".join(describe(results)))
            print(
                f"written: {session.workdir / RESULTS_JSON}, and {RESULTS_MD} beside it", flush=True
            )
    return results


def _reader(named: str) -> Recognizer | None:
    if not named:
        return None
    try:
        return Recognizer.from_pretrained(named)
    except ConfigError as error:
        said = str(error).replace("--pretrained=", "config.recognizer=")
        raise ConfigError(said) from error


def images_per_second(network: DenseNetwork) -> float:
    """The median of a few batches, compiled before."""
    images = np.zeros((network.batch_size, *network.head.taken, 3), np.uint8)
    network(images)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        network(images)
        taken.append(time.perf_counter() - start)
    return round(network.batch_size / float(np.median(taken)), 1)


def run_all_dense(
    config: ConfigDict, workdir: str | Path | None, pretrained: str, **session: Any
) -> list[DenseEvaluation]:
    """Runs everything that the config asks for: `evaluation.runs.run_all` of a dense task."""
    runs = plan_runs(config, pretrained)
    plans = run_plans(config, runs, dense_plan)
    if workdir is None:
        raise ConfigError(NO_WORKDIR)
    results = run_each(runs, plans, workdir, run_dense, **session)
    if len(runs) > 1 and jax.process_index() == 0:
        rows = summary_rows(runs, results)
        note = seeds_note([result.encoder for result in results])
        lines = ["# Evaluation", "", markdown_table(rows), ""]
        lines += [f"Means over the seeds; {note}", ""] if config.seeds else []
        lines += [f"Command: `{shlex.join(sys.argv)}`", ""]
        write_text(Path(workdir) / SUMMARY_MD, "\n".join(lines))
        print(text_table(rows))
    return results


def summary_rows(runs: Sequence[Run], results: Sequence[DenseEvaluation]) -> list[tuple[str, ...]]:
    """Labels and initialisations beside one another, over the seeds, and the baseline, by set."""
    rows: list[tuple[str, ...]] = []
    for place, scored in enumerate(results[0].scored):
        groups: dict[tuple[str, str], list[dict[str, float | None]]] = {}
        for run, result in zip(runs, results, strict=True):
            for row in result.scored[place].rows:
                values = {name: found.value for name, found in row.measures.items()}
                key = (f"{run.labels:g}", run.initialisation)
                key = key if row.method == NETWORK else ("", row.method)
                groups.setdefault(key, []).append(values)
        names = [name for name in TITLES if any(name in g[0] for g in groups.values())]
        if not rows:
            rows.append(("set", "labels", "method", "runs", *(TITLES[name] for name in names)))
        for (labels, method), found in groups.items():
            alike = found if labels else found[:1]
            cells = [
                show_spread(name, spread([f[name] for f in alike])) if name in alike[0] else "–"
                for name in names
            ]
            rows.append((scored.name, labels, method, str(len(alike)), *cells))
    return rows
