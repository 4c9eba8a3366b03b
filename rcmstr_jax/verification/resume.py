"""Whether a run that is killed again and again ends, bit for bit, like one that was left alone."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.runtime.checkpoint import CHECKPOINTS
from rcmstr_jax.runtime.errors import EXIT_PREEMPTED, RunFailed
from rcmstr_jax.runtime.writers import METRICS

# When a process is killed: anywhere between two steps, while a checkpoint is being written, or
# before its first step.
STEPPING, WRITING, STARTING = "stepping", "writing", "starting"
_POLL_SECONDS = 0.002
_IMAGES = 48
# Checkpoints overlap the steps between them.
_STEPS_PER_KILL, _LEAST_STEPS, _CHECKPOINT_EVERY = 3, 18, 3
PRETRAINING, RECOGNITION = "pretraining", "recognition"
_MODEL = {"model.image_width": 20, "model.blocks": (0, 0, 1, 0), "model.dtype": "float32"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A kind of run that the check starts.

    Attributes:
      launcher: file of launch/, and flags that it needs.
      config: file of configs/, with its variant.
      settings: fields that make it small; {folder} holds the images.
      length: field that says how long it is.
      per_step: what the field counts for a step.
    """

    launcher: tuple[str, ...]
    config: str
    settings: Mapping[str, Any]
    length: str
    per_step: int = 1


SUBJECTS = {
    # Every part of the method: CNN, rearrangement, three queues, two pairs, masked images.
    PRETRAINING: Subject(
        launcher=("pretrain.py",),
        config="pretrain/mini.py:test",
        settings={
            **_MODEL,
            "data.source": "lmdb:{folder}/words",
            "model.projector": "mlp",
            "contrast.queue_size": 100,
            "contrast.chunk": 64,
            "checkpoint_every": _CHECKPOINT_EVERY,
            "picture_every": -1,
        },
        length="total_images",
        per_step=8,  # the batch of mini.py:test
    ),
    # Encoder and decoder, their moving average, and validation, which keeps the best weights.
    RECOGNITION: Subject(
        launcher=("evaluate.py", "--pretrained=random"),
        config="evaluate/finetune_ctc.py:test",
        settings={
            **_MODEL,
            "benchmarks": "{folder}/benchmark",
            "train.source": "lmdb:{folder}/words",
            "train.labels": 1.0,
            "train.probe_steps": 0,
            "train.accumulation": 1,
            "train.average": 0.9,
            "train.validation": 8,
            "train.validate_every": _CHECKPOINT_EVERY,
            "train.patience": 0,
            "train.log_every": 1,
            "train.checkpoint_every": _CHECKPOINT_EVERY,
        },
        length="train.steps",
    ),
}


def write_words(folder: Path) -> None:
    """Images of noise with labels, and a benchmark of the first four."""
    noise = np.random.default_rng(0).integers(0, 256, (_IMAGES, 32, 20, 3), np.uint8)
    records = [
        Record(cv2.imencode(".png", image)[1].tobytes(), "abc"[place % 3], "noise")
        for place, image in enumerate(noise)
    ]
    write_lmdb(folder / "words", records)
    write_lmdb(folder / "benchmark" / "noise", records[:4])


class ResumeFailed(RunFailed):
    """A process of the check did not do what it was started for."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """When to kill a process.

    Attributes:
      kind: STEPPING, WRITING or STARTING.
      step: not before this step (its metric line) is done.
      delay: then wait for this share of the time that kind of moment lasts.
    """

    kind: str
    step: int
    delay: float


@dataclasses.dataclass(frozen=True)
class Killed:
    """What a kill met: the last step in the metrics, and whether a half-written checkpoint."""

    kill: Kill
    step: int
    half_written: bool
    code: int


def plan_kills(count: int, seed: int) -> list[Kill]:
    """Random moments over the whole run: half between steps, a third in writing, the rest early."""
    rng = random.Random(seed)
    last = total_steps(count) - 3 * _CHECKPOINT_EVERY
    steps = sorted(rng.randrange(1, last) for _ in range(count))
    kinds = rng.choices((STEPPING, WRITING, STARTING), (3, 2, 1), k=count)
    # A short list holds the kind that is worth most.
    kinds[count // 2] = WRITING
    return [Kill(kind, step, rng.random()) for kind, step in zip(kinds, steps, strict=True)]


def total_steps(kills: int) -> int:
    """Length of the run: some steps for every kill."""
    return max(_LEAST_STEPS, _STEPS_PER_KILL * kills)


def allowed_codes(kill: Kill, number: signal.Signals) -> tuple[int, ...]:
    """Exit codes with which a killed process may end."""
    if number == signal.SIGKILL:
        return (-number,)
    # Before it has a handler, a process dies of SIGTERM; once it takes steps, it saves.
    return (-number, EXIT_PREEMPTED) if kill.kind == STARTING else (EXIT_PREEMPTED,)


class ResumeCheck:
    """The runs of the check, below one folder."""

    def __init__(
        self, folder: Path, subject: Subject, kills: int, seed: int, root: str | Path = "."
    ) -> None:
        """Makes the words that all runs are trained on.

        Args:
          folder: for data, compiled programs and workdirs; must not hold those of another check.
          subject: what is trained.
          kills: per signal.
          seed: of their moments.
          root: checkout whose launchers and configs are used.
        """
        root = Path(root).resolve()
        script, *flags = subject.launcher
        self.folder, self.total = folder, total_steps(kills)
        self.kills = plan_kills(kills, seed)
        settings = {
            **subject.settings,
            subject.length: self.total * subject.per_step,
            "compilation_cache": "{folder}/compiled",
        }
        self._command = [
            sys.executable,
            str(root / "launch" / script),
            f"--config={root / 'configs' / subject.config}",
            *flags,
            *(f"--config.{name}={value}".format(folder=folder) for name, value in settings.items()),
        ]
        write_words(folder)

    def command(self, name: str) -> list[str]:
        """The command of a run, the same whenever it is started."""
        return [*self._command, f"--workdir={self.folder / name}"]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Starts a process of a run, or starts it again."""
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        with (self.folder / f"{name}.stderr").open("ab") as errors:
            return subprocess.Popen(
                self.command(name), stdout=errors, stderr=errors, env=environment
            )

    def finish(self, name: str) -> float:
        """Lets a run come to its end, and returns the seconds until its first step.

        Raises:
          ResumeFailed: if it fails.
        """
        started = time.monotonic()
        process = self.start(name)
        first = _wait_for_step(process, self.folder / name / METRICS, 1) - started
        self._expect(process.wait(), (0,), name)
        return first

    def interrupt(self, name: str, number: signal.Signals, seconds: float) -> Iterator[Killed]:
        """Kills and restarts a run at every planned moment, then lets it finish.

        SIGKILL has to meet a half-written checkpoint: one is added where those planned met none.

        Args:
          name: of the run.
          number: signal to send.
          seconds: that a process needs until its first step, about.

        Yields:
          What each kill met.
        """
        met = False
        for kill in self.kills:
            killed = self._interrupt_once(name, number, seconds, kill)
            met |= killed.half_written
            yield killed
        if number == signal.SIGKILL and not met:
            late = Kill(WRITING, self.total - 2 * _CHECKPOINT_EVERY, 0.0)
            yield self._interrupt_once(name, number, seconds, late)
        self.finish(name)

    def _interrupt_once(
        self, name: str, number: signal.Signals, seconds: float, kill: Kill
    ) -> Killed:
        workdir = self.folder / name
        process = self.start(name)
        if kill.kind == STARTING:
            time.sleep(kill.delay * seconds)
        else:
            _wait_for_step(process, workdir / METRICS, kill.step)
            if kill.kind == WRITING:
                # Or for a step after it, where the checkpoint was too quick to be met.
                latest, metrics = kill.step + _CHECKPOINT_EVERY, workdir / METRICS
                _wait_until(process, lambda: _half_written(workdir) or _last_step(metrics) > latest)
            time.sleep(kill.delay * (0.03 if kill.kind == WRITING else 0.05))
        process.send_signal(number)
        code = process.wait()
        self._expect(code, allowed_codes(kill, number), name)
        half = kill.kind != STARTING and _half_written(workdir)
        return Killed(kill, _last_step(workdir / METRICS), half, code)

    def differences(self, name: str, reference: str) -> list[str]:
        """What sets a finished run apart from another: nothing, if restarts are exact."""
        found = []
        for file in ("state_digest.txt", METRICS):
            ours, theirs = ((self.folder / n / file).read_text() for n in (name, reference))
            lines = zip(ours.splitlines(), theirs.splitlines(), strict=False)
            apart = [f"line {i + 1}: {a} | {b}" for i, (a, b) in enumerate(lines) if a != b]
            if ours != theirs:
                first = apart[0][:400] if apart else "one of them is longer"
                found.append(f"{file} of {name} and {reference} differ, first in {first}")
        return found

    def _expect(self, code: int, allowed: tuple[int, ...], name: str) -> None:
        if code not in allowed:
            log = (self.folder / f"{name}.stderr").read_text(errors="replace")
            raise ResumeFailed(
                f"run {name!r} ended with {code}, not with {' or '.join(map(str, allowed))}:\n"
                + "\n".join(log.splitlines()[-15:])
            )


def verify_resume(
    folder: Path,
    *,
    kills: int,
    seed: int,
    signals: Sequence[signal.Signals] = (signal.SIGKILL, signal.SIGTERM),
    root: str | Path,
    what: str = PRETRAINING,
    say: Callable[[str], None] = print,
) -> bool:
    """Runs the check and reports it.

    Args:
      folder: empty, or to be created.
      kills: per signal.
      seed: of the moments.
      signals: each has a run of its own; they are worked on side by side.
      root: checkout whose launchers and configs are used.
      what: a key of `SUBJECTS`.
      say: takes the lines of the report.

    Returns:
      True if digest and metrics of all runs are equal and SIGKILL met a half-written checkpoint.

    Raises:
      ResumeFailed: if a process ends otherwise than it should.
    """
    check = ResumeCheck(folder, SUBJECTS[what], kills, seed, root)
    say(f"{what}: {check.total} steps, {kills} kills per signal, seed {seed}, in {folder}")
    check.finish("first")
    seconds = check.finish("whole")
    found = check.differences("whole", "first")
    say(f"uninterrupted: {(folder / 'whole' / 'state_digest.txt').read_text().strip()}")

    def chain(number: signal.Signals) -> list[Killed]:
        return list(check.interrupt(number.name, number, seconds))

    with concurrent.futures.ThreadPoolExecutor(len(signals)) as pool:
        for number, met in zip(signals, pool.map(chain, signals), strict=True):
            for i, one in enumerate(met):
                half = ", checkpoint half written" if one.half_written else ""
                kind, code = one.kill.kind, one.code
                say(f"{number.name} {i + 1:2d}: {kind}, step {one.step}{half}, exit {code}")
            log = (folder / number.name / "log.txt").read_text()
            resumed = [int(step) for step in re.findall(r"continuing after step (\d+)", log)]
            say(
                f"{number.name}: {len(met)} kills, {sum(k.half_written for k in met)} of them with "
                f"a half-written checkpoint; continued after steps {resumed}; "
                f"{(folder / number.name / 'state_digest.txt').read_text().strip()}"
            )
            found += check.differences(number.name, "whole")
            if number == signal.SIGKILL and not any(one.half_written for one in met):
                found.append(
                    f"no {number.name} met a half-written checkpoint, so that nothing is shown of "
                    "those: take more --kills, or another --seed"
                )
    for line in found:
        say(f"NOT SHOWN: {line}")
    if not found:
        say("equal, bit for bit: state digests, and every line of the metrics")
    return not found


def _half_written(workdir: Path) -> bool:
    try:
        return any(".orbax-checkpoint-tmp" in p.name for p in (workdir / CHECKPOINTS).iterdir())
    except FileNotFoundError:
        return False


def _last_step(metrics: Path) -> int:
    try:
        return json.loads(metrics.read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, json.JSONDecodeError):
        return 0


def _wait_until(process: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
    """Waits; returns as well when the process has ended, which its exit code then shows."""
    while process.poll() is None and not done():
        time.sleep(_POLL_SECONDS)


def _wait_for_step(process: subprocess.Popen[bytes], metrics: Path, step: int) -> float:
    """Waits until this process, not one before it, has written the line of a step."""

    def inode() -> int:
        return metrics.stat().st_ino if metrics.exists() else 0

    before = inode()
    # At its start a process rewrites the file, without the steps after its checkpoint.
    _wait_until(process, lambda: inode() not in (0, before))
    _wait_until(process, lambda: _last_step(metrics) >= step)
    return time.monotonic()
