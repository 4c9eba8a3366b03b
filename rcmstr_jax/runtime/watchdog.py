"""Who is stuck, and who is gone, among the processes of a run.

Every process says every few seconds how far it is, in `WORKDIR/hosts/PROCESS.json`, and reads what
the others say. Clocks of different machines are never compared: a sign of life is a change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from rcmstr_jax.runtime.errors import EXIT_FAILED, EXIT_LOST, ConfigError
from rcmstr_jax.runtime.files import write_text
from rcmstr_jax.runtime.skipped import TrainingDiverged

logger = logging.getLogger(__name__)

# What a process can be doing. All wait for each other within a step.
STARTING, DATA, STEP, SAVING = "starting", "waiting for data", "in a step", "saving"
ENDED, FAILED = "ended", "failed"
# Signs that are waited for where another process is about to end too, and without which it has.
_FAREWELL, _GONE = 5, 3
# Errors that every process finds by itself.
_SAME_ON_ALL = (ConfigError, TrainingDiverged)


@dataclasses.dataclass
class Seen:
    """What a process last said, and when that changed, by the clock of the one who reads.

    Attributes:
      said: `host`, `step`, `doing`, `error`, `beat`; empty before the first sign.
      alive: when the last sign came.
      since: when step or occupation changed.
    """

    said: dict[str, Any]
    alive: float
    since: float


@contextlib.contextmanager
def leave_at_once_on_failure() -> Iterator[None]:
    """Ends a failed process of several without JAX's farewell, which waits for those that are gone.

    What happens within is printed as Python would, or as `one_line_errors` inside did.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        code = error.code if isinstance(error, SystemExit) else EXIT_FAILED
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else EXIT_FAILED)


def end_process(message: str, code: int) -> None:
    """Ends the process at once: its main thread waits for a host that does not answer."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(code)


class Watchdog:
    """Watches the steps of this process and the signs of life of the others.

    A process that makes no progress is reported, and the run goes on. One that is gone cannot be
    waited for, and ends the others with `EXIT_LOST`: the whole run can be started again. One that
    failed ends them with `EXIT_FAILED`, because it would fail again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        process: int,
        processes: int,
        stall_seconds: float,
        lost_seconds: float = 40.0,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[str, int], None] = end_process,
    ) -> None:
        """Takes what it needs to know; `__enter__` starts the thread.

        Args:
          folder: shared by all hosts; unused with a single process.
          process: number of this one.
          processes: of the run.
          stall_seconds: without progress, before it is reported; 0 for never.
          lost_seconds: without a sign of life, before a process counts as gone.
          interval: seconds between two signs.
          clock: seconds.
          end: called with a message and an exit code when another process is gone or failed.
        """
        self._folder, self._process, self._processes = folder, process, processes
        self._stall, self._lost_after = stall_seconds, lost_seconds
        self._interval, self._clock, self._end = interval, clock, end
        self._beat, self._told = 0, clock()
        self._step, self._doing, self._error = 0, STARTING, ""
        self._verdict = ""  # why this process ends, where another one failed
        others = [number for number in range(processes) if number != process]
        self._others = {number: Seen({}, clock(), clock()) for number in others}
        # What an earlier run left is no sign of life of this one.
        self._stale = {number: self._read(number) for number in others}
        self._since = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def note(self, step: int, doing: str) -> None:
        """Says that this process is about to do something, after `step` finished steps."""
        self._step, self._doing = step, doing
        self._since = self._told = self._clock()

    def note_failure(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tells the others why this process ends; an exit callback of `contextlib.ExitStack`."""
        if self._doing == FAILED:
            return
        if isinstance(error, Exception) and not isinstance(error, _SAME_ON_ALL):
            self._suspect()
        self._error = "" if error is None else f"{type(error).__name__}: {error}".split("\n")[0]
        self._since = self._clock()
        self._doing = ENDED if error is None else FAILED
        self._sign()
        if error is not None:
            self._wait(2 * _FAREWELL * self._interval, until=self._may_leave)

    def __enter__(self) -> Watchdog:
        if self._processes > 1:
            self._folder.mkdir(exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.note_failure(kind, error, trace)
        self._stop.set()
        self._thread.join()

    def _suspect(self) -> None:
        """Waits a while: a failure here may be the echo of another process's end."""
        self._lost_after = min(self._lost_after, _FAREWELL * self._interval)
        self._wait(2 * self._lost_after)

    def _wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        deadline = self._clock() + seconds
        while self._processes > 1 and self._clock() < deadline and not until():
            time.sleep(self._interval)

    def _may_leave(self) -> bool:
        """Whether the others know that the run ends; process 0 waits until they have left.

        JAX's own service ends with it, and aborts with another code whoever is still there.
        """
        others, silence = self._others.values(), _GONE * self._interval
        if self._process == 0:
            return all(self._clock() - seen.alive > silence for seen in others)
        return all(seen.said.get("doing") in (ENDED, FAILED) for seen in others)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.look()

    def look(self) -> None:
        """Gives a sign, reads those of the others, and acts on them."""
        self._sign()
        for number in self._others:
            self._look_at(number)
        if self._verdict and (self._process or self._may_leave()):
            self._end(self._verdict, EXIT_FAILED)
        patience = 3 * _FAREWELL * self._interval
        if self._others and self._doing == FAILED and self._clock() - self._since > patience:
            # It cannot even clean up: that waits for the others, and they have left.
            self._end(self._error, EXIT_FAILED)
        if self._stall and self._clock() - self._told > self._stall and self._doing != ENDED:
            self._told = self._clock()
            logger.error("%s", self._stuck())

    def _look_at(self, number: int) -> None:
        seen, said, now = self._others[number], self._read(number), self._clock()
        if said and said not in (seen.said, self._stale[number]):
            moved = any(said[key] != seen.said.get(key) for key in ("step", "doing"))
            self._others[number] = Seen(said, now, now if moved else seen.since)
            if said["doing"] == FAILED and self._doing not in (ENDED, FAILED):
                what = f"ended with {said['error']}"
                self._verdict = self._loss(number, what, "Remove the cause, then start")
                self._doing = ENDED
                self._sign()  # nobody need wait for this process any longer
        elif self._doing == FAILED or seen.said.get("doing") == ENDED:
            return
        elif now - seen.alive > self._lost_after:
            what = f"gave no sign of life for {now - seen.alive:.0f} s"
            if not seen.said:
                workdir = self._folder.parent
                what += f", or --workdir={workdir} is not on a disk that all of them see"
            self._end(self._loss(number, what), EXIT_LOST)

    def _loss(self, number: int, what: str, remedy: str = "Start") -> str:
        said = self._others[number].said
        return (
            f"process {number} on {said.get('host', 'an unknown host')} {what}; its last step was "
            f"{said.get('step', 'none')}. {remedy} all processes again with the same command: the "
            "run continues from the newest checkpoint"
        )

    def _stuck(self) -> str:
        now = self._clock()
        own = Seen(self._said(), now, self._since)
        everybody = {self._process: own, **self._others}
        steps = {number: seen.said.get("step", 0) for number, seen in everybody.items()}
        behind = [number for number in everybody if steps[number] == min(steps.values())]
        # Those within a step wait for the ones that have not come to it.
        guilty = [n for n in behind if everybody[n].said.get("doing") != STEP]
        if not guilty and len(behind) < len(everybody):
            guilty = behind
        lines = [
            f"process {number} on {seen.said.get('host', 'an unknown host')}: step {steps[number]},"
            f" {seen.said.get('doing', 'not started')} for {now - seen.since:.0f} s"
            for number, seen in sorted(everybody.items())
        ]
        who = f"process {', '.join(map(str, guilty))}" if guilty else "the step itself"
        return f"no progress for {now - self._since:.0f} s, stuck is {who} ({'; '.join(lines)})"

    def _said(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "step": self._step,
            "doing": self._doing,
            "error": self._error,
            "beat": self._beat,
        }

    def _sign(self) -> None:
        self._beat += 1
        if self._processes == 1:
            return
        try:
            write_text(self._folder / f"{self._process}.json", json.dumps(self._said()))
        except OSError as error:
            logger.warning("no sign of life can be given: %s", error)

    def _read(self, number: int) -> dict[str, Any]:
        try:
            return json.loads((self._folder / f"{number}.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
