"""Watching a running pretraining: a light measure of every checkpoint, beside the training curves.

The measure is a probe on frozen frames, trained on a few words and scored on others of the same
source, so that no benchmark is looked at before the end.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from rcmstr_jax.evaluation.protocols import reported_as_config_error
from rcmstr_jax.recognition import fitting
from rcmstr_jax.recognition.encoders import split_pretrained
from rcmstr_jax.recognition.fitting import Stopped
from rcmstr_jax.recognition.task import prepare
from rcmstr_jax.runtime.checkpoint import CHECKPOINTS, CheckpointError
from rcmstr_jax.runtime.config_files import read_config
from rcmstr_jax.runtime.interrupts import StopRequest
from rcmstr_jax.runtime.writers import METRICS, MetricWriter
from rcmstr_jax.training.loop import open_session
from rcmstr_jax.training.plan import EvaluationPlan, pretrain_plan

WATCH = "watch"


def watch(
    plan: EvaluationPlan,
    pretrained: str,
    workdir: str | Path | None = None,
    *,
    every: float = 20.0,
) -> list[int]:
    """Measures the checkpoints of a pretraining run as they appear, until its last one.

    A checkpoint that was measured before is left out, so that the command can be started anew. One
    that went away before its turn (`keep_checkpoints`), or that cannot be read, is told and left
    out.

    Args:
      plan: with `protocol="frozen"` and words for validation.
      pretrained: workdir of the pretraining run.
      workdir: takes metrics.jsonl and TensorBoard events; by default `pretrained/watch`, where
        TensorBoard shows them beside the run's own.
      every: seconds between two looks.

    Returns:
      The steps that were measured.

    Raises:
      ConfigError: the config is no light measure, or the folder is no pretraining run.
      Stopped: by Ctrl-C or SIGTERM.
    """
    run, out = Path(pretrained), Path(workdir or Path(pretrained) / WATCH)
    with reported_as_config_error():
        if plan.protocol != "frozen" or not plan.train.validation:
            raise ValueError(
                f"protocol={plan.protocol!r} with train.validation={plan.train.validation} is"
                " no measure to watch with: --watch takes a frozen protocol and words to validate"
                " on, as in configs/evaluate/linear_probe.py"
            )
        if split_pretrained(pretrained)[0]:
            raise ValueError(f"--pretrained={pretrained}: --watch takes the workdir of a run")
        run_plan = pretrain_plan(read_config(pretrained)).loop
        total, interval = run_plan.total_steps, run_plan.checkpoint_every
        out.mkdir(parents=True, exist_ok=True)
    measured = _steps_in(out / METRICS)
    passed: set[int] = set()  # unmeasured, and told
    new: list[int] = []
    with StopRequest() as stop:
        while max(measured | passed, default=0) < total:
            there = checkpoint_steps(run)
            waiting = sorted(set(there) - measured - passed)
            expected = set(range(interval, max(there, default=0), interval))
            gone = sorted(expected.difference(there, measured, passed))
            if gone:
                passed.update(gone)
                print(
                    f"{len(gone)} checkpoints from step {gone[0]} to {gone[-1]} went away before"
                    " they were measured: keep_period of the pretraining keeps more",
                    flush=True,
                )
            for step in waiting:
                try:
                    score = measure(plan, pretrained, step, out)
                except CheckpointError as error:
                    passed.add(step)
                    why = error if step in checkpoint_steps(run) else "its checkpoint went away"
                    print(f"step {step} of {total} is left out: {why}", flush=True)
                    continue
                writer = MetricWriter(out, max(measured, default=0))
                writer.write_scalars(step, score)
                writer.close()
                measured.add(step)
                new.append(step)
                print(
                    f"step {step} of {total}: 1-NED {score['probe/one_minus_ned']:.2f} %, word"
                    f" accuracy {score['probe/word_accuracy']:.2f} %",
                    flush=True,
                )
            if stop.signal:
                raise Stopped(f"{stop.signal}: stopped watching; the same command goes on")
            if not waiting:
                time.sleep(every)
    return new


def measure(plan: EvaluationPlan, pretrained: str, step: int, out: Path) -> dict[str, float]:
    """Trains the probe on one checkpoint and scores it on the validation words.

    Returns:
      Scalars by the names of their curves, scores in %.

    Raises:
      CheckpointError: the checkpoint cannot be read.
      ConfigError: the words cannot be read.
    """
    clock = fitting.Clock()
    with tempfile.TemporaryDirectory(dir=out, prefix=".probe-") as folder:
        with open_session(folder, compilation_cache=plan.loop.compilation_cache) as session:
            with reported_as_config_error(CheckpointError):
                task = prepare(plan, session, f"{pretrained}@{step}")
            assert task.chosen is not None  # the folder is new
            probe = fitting.train_recognizer(task, task.chosen, clock)
    found: dict[str, float] = probe.description["train"]["validation"]
    scalars = {f"probe/{name}": value for name, value in found.items()}
    return {**scalars, "speed/probe_seconds": clock.report()["total"]}


def checkpoint_steps(run: Path) -> list[int]:
    """Steps whose checkpoints are complete now."""
    folder = run / CHECKPOINTS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _steps_in(path: Path) -> set[int]:
    if not path.is_file():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return {int(json.loads(line)["step"]) for line in lines if line.endswith("}")}
