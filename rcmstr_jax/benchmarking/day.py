"""A day on a lent accelerator: stages one after the other, each with a result of its own, one page.

`OUT/page.md`, `day.json` and `forms.json` are what is taken home; `OUT/work` holds everything else:
`stages/NAME.json` per finished stage, logs, compiled programs, words, runs. A stage whose result is
there is not run again, so that the same command goes on where a lender's time limit ended it.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rcmstr_jax.benchmarking.cases import Settings
from rcmstr_jax.runtime.errors import EXIT_FAILED, EXIT_PREEMPTED, ConfigError, in_one_line
from rcmstr_jax.runtime.files import from_json, write_json, write_text
from rcmstr_jax.training.plan import PretrainPlan

# Of the day, for what trains: stages that measure leave so much of it.
TRAINING_SHARE = 0.35
# Under so many seconds no stage begins.
LEAST_SECONDS = 20.0
# A process that was asked to stop has so many seconds to save.
GRACE_SECONDS = 40.0


class Unfinished(Exception):
    """A stage was asked to stop and has saved: the same command goes on with it."""


@dataclasses.dataclass(frozen=True)
class Day:
    """What all stages know.

    Attributes:
      out: folder of the results.
      small: sizes for a test on a CPU.
      seconds: that a stage may take.
      make_plan: the plan of a step that is measured, see `step.step_cases`.
      configs: what is trained: "smoke", "pretrain" and "recognise".
      golden: folder of the figures of the published code.
      words: file of words to render, most frequent first; "" takes those of Python's own manual.
      benchmarks: folder of real sets that the recogniser is scored on beside rendered words; "" for
        none.
    """

    out: Path
    small: bool
    seconds: float
    make_plan: Callable[[Settings, Mapping[str, Any]], PretrainPlan]
    configs: Mapping[str, Callable[[], ConfigDict]]
    golden: Path
    words: str = ""
    benchmarks: str = ""

    @property
    def work(self) -> Path:
        """Where everything lies that is not taken home."""
        return self.out / "work"

    def result_path(self, stage: str) -> Path:
        """Of a stage."""
        return self.work / "stages" / f"{stage}.json"

    def result(self, stage: str) -> Result | None:
        """What a stage found; None before it was run."""
        path = self.result_path(stage)
        if not path.is_file():
            return None
        return from_json(Result, json.loads(path.read_text(encoding="utf-8")))


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the day.

    Attributes:
      name: of its result.
      title: of its section on the page.
      run: yields what it has found so far, part by part; "page" of a part is Markdown for the page.
      minutes: that it may take.
      share: of the time that is left, for a stage that trains; 0 for one that measures.
    """

    name: str
    title: str
    run: Callable[[Day], Iterator[dict[str, Any]]]
    minutes: float = 5.0
    share: float = 0.0


@dataclasses.dataclass(frozen=True)
class Result:
    """What a stage found.

    Attributes:
      stage: its name.
      seconds: that it took.
      error: why it failed, in a line; "" if it did not.
      found: what it yielded; what it yielded before it failed.
    """

    stage: str
    seconds: float
    error: str = ""
    found: dict[str, Any] = dataclasses.field(default_factory=dict)


def run_here(day: Day, stage: Stage) -> Result:
    """Runs a stage in this process and writes its result, after each part that it yields.

    Raises:
      Unfinished: it was asked to stop; there is no result yet.
    """
    start, found, error = time.monotonic(), dict[str, Any](), "ended while it ran"
    path = day.result_path(stage.name)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(to: Path) -> Result:
        result = Result(stage.name, time.monotonic() - start, error, found)
        write_json(to, result)
        return result

    try:
        for part in stage.run(day):
            found["page"] = "\n\n".join(filter(None, (found.get("page"), part.pop("page", ""))))
            found.update(part)
            write(partial_path(path))
        error = ""
    except Unfinished:
        raise
    except (Exception, SystemExit) as failure:  # whatever it is belongs on the page
        traceback.print_exc()
        error = in_one_line(failure)
    partial_path(path).unlink(missing_ok=True)
    return write(path)


def partial_path(path: Path) -> Path:
    """Where a stage that is running keeps what it has found."""
    return path.with_suffix(".partial")


def run_apart(day: Day, stage: Stage, command: Sequence[str], least: float) -> Result | None:
    """Runs a stage in a process of its own, which gets the accelerator to itself.

    Args:
      day: `seconds` are those that the stage may take.
      stage: what is run.
      command: that ends with `run_here`.
      least: seconds that it may take before it is stopped, beside half as many again as planned.

    Returns:
      None if it was stopped and goes on with the next command.
    """
    path, log = day.result_path(stage.name), day.work / "logs" / f"{stage.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    start, error = time.monotonic(), ""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=least)
        except subprocess.TimeoutExpired:
            error = f"stopped after {least:.0f} s"
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if process.returncode == EXIT_PREEMPTED:
        return None
    if not path.is_file():
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        error = error or f"ended with {process.returncode}: {' '.join(last)[:300]}"
        found: dict[str, Any] = {}
        if partial_path(path).is_file():
            found = json.loads(partial_path(path).read_text(encoding="utf-8"))["found"]
            partial_path(path).unlink()
        write_json(path, Result(stage.name, time.monotonic() - start, error, found))
    return day.result(stage.name)


def run_day(
    day: Day,
    stages: Sequence[Stage],
    *,
    minutes: float,
    limit: float,
    again: Sequence[str] = (),
    apart: Callable[[Stage, float], Sequence[str]] | None,
    write_page: Callable[[Day], None],
) -> int:
    """Runs the stages that have no result, as long as there is time, and writes the page.

    Args:
      day: of the results.
      stages: in order; those that train come last.
      minutes: of all commands of the day together, in what stages took.
      limit: seconds of this command; 0 for none.
      again: names of the only stages to run, whether they have a result or not; empty for all.
      apart: the command that runs a stage in a process of its own, given the seconds that it may
        take; None runs all here.
      write_page: called after every stage.

    Returns:
      0: all stages have done their work; 1: one failed, or had no time; 75: the command's time was
      up, and the same command goes on.

    Raises:
      ConfigError: a name in `again` is none of a stage.
    """
    names = [stage.name for stage in stages]
    if unknown := [name for name in again if name not in names]:
        raise ConfigError(f"--stages={unknown[0]}: there is no such stage; {', '.join(names)}")
    for name in again:
        day.result_path(name).unlink(missing_ok=True)
    started = time.monotonic()
    for stage in stages:
        if day.result_path(stage.name).is_file() or (again and stage.name not in again):
            continue
        taken = sum(r.seconds for r in results(day, stages).values())
        left = 60 * minutes - taken
        planned = min(60 * stage.minutes, left - 60 * minutes * TRAINING_SHARE)
        if stage.share:
            planned = left * stage.share
        here = limit - (time.monotonic() - started) - GRACE_SECONDS if limit else float("inf")
        if planned < LEAST_SECONDS:
            print(f"{stage.name}: left out, {left:.0f} s are left of the day", flush=True)
            continue
        if here < min(planned, 3 * LEAST_SECONDS):
            return _out_of_time(day, write_page)
        print(f"{stage.name}: up to {planned:.0f} s ...", flush=True)
        result: Result | None
        if apart is None:
            result = run_here(dataclasses.replace(day, seconds=planned), stage)
        else:
            most = min((1.5 if stage.share else 1.0) * planned, here)
            result = run_apart(day, stage, apart(stage, planned), most)
            if most == here and (result is None or result.error.startswith("stopped after")):
                day.result_path(stage.name).unlink(missing_ok=True)
                return _out_of_time(day, write_page)
            if result is None:
                result = Result(stage.name, most, "asked to stop before its end; it has saved")
                write_json(day.result_path(stage.name), result)
        said = result.error or "done"
        print(f"{stage.name}: {said} ({result.seconds:.0f} s)", flush=True)
        write_page(day)
    write_page(day)
    done = results(day, stages)
    return EXIT_FAILED if len(done) < len(stages) or any(r.error for r in done.values()) else 0


def _out_of_time(day: Day, write_page: Callable[[Day], None]) -> int:
    write_page(day)
    print("the time of this command is up: the same command goes on", flush=True)
    return EXIT_PREEMPTED


def results(day: Day, stages: Sequence[Stage]) -> dict[str, Result]:
    """What the stages found that were run, by name."""
    found = {stage.name: day.result(stage.name) for stage in stages}
    return {name: result for name, result in found.items() if result is not None}


def write_page(day: Day, stages: Sequence[Stage], head: str) -> None:
    """Writes `page.md`, and the same as data: `day.json`.

    Args:
      day: of the results.
      stages: in the order of the page.
      head: what stands first.
    """
    found = results(day, stages)
    rows = [head]
    for stage in stages:
        result = found.get(stage.name)
        rows.append(f"## {stage.title}")
        if result is None:
            rows.append(f"`{stage.name}` was not run.")
            continue
        rows.append(f"`{stage.name}`, {result.seconds:.0f} s" + (":" if not result.error else ""))
        if result.error:
            rows[-1] += f": **failed**: {result.error}"
        rows += filter(None, [result.found.get("page", "")])
    write_text(day.out / "page.md", "\n\n".join(rows) + "\n")
    write_json(day.out / "day.json", {name: dataclasses.asdict(r) for name, r in found.items()})
