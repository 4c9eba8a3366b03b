"""What a person sees of a running job: messages, a progress bar, speed and gauges."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import jax
from tqdm import tqdm

PACKAGE_LOGGER = "rcmstr_jax"
_logger = logging.getLogger(__name__)
# What takes longer is announced.
ANNOUNCE_SECONDS = 2.0
# Characters of a progress line, with the time before it at most 120.
LINE = 92
# Metrics shown beside the bar, where they exist: the loss, and one sign of collapse of each kind.
SHOWN = ("loss", "accuracy/*", "key_variance/*", "relation_entropy/*")


class _BarHandler(logging.Handler):
    """Prints messages above the bar instead of through it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=self._stream)


@contextlib.contextmanager
def run_log(workdir: Path | None, stream: TextIO | None = None) -> Iterator[logging.Logger]:
    """Sends the package's messages to `stream` and to `workdir/log.txt`.

    Args:
      workdir: folder of the run; None on hosts that write no logs.
      stream: standard error by default.

    Yields:
      The package's logger.
    """
    logger = logging.getLogger(PACKAGE_LOGGER)
    handlers: list[logging.Handler] = []
    if workdir is not None:
        handlers.append(_BarHandler(stream or sys.stderr))
        handlers.append(logging.FileHandler(workdir / "log.txt", encoding="utf-8"))
    before = logger.level, logger.propagate
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.level, logger.propagate = before
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def announced(what: str, *, always: bool = False) -> Iterator[None]:
    """Says what a process is busy with, if it takes more than two seconds, and how long it took.

    Args:
      what: as in "compiling the training step".
      always: say it at once.
    """
    said = threading.Event()

    def say() -> None:
        said.set()
        _logger.info("%s ...", what)

    timer = threading.Timer(0.0 if always else ANNOUNCE_SECONDS, say)
    timer.daemon = True
    start = time.monotonic()
    if always:
        say()
    else:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if said.is_set():
            _logger.info("%s took %.1f s", what, time.monotonic() - start)


def gauges_line(metrics: Mapping[str, float], width: int = LINE) -> str:
    """Loss and collapse gauges, `loss 9.123  accuracy frame .12, word .30  key_variance ...`.

    Of the gauges as many groups as fit into `width` characters; metrics.jsonl has all of them.
    """
    parts: dict[str, list[str]] = {}
    for name in (name for pattern in SHOWN for name in fnmatch.filter(metrics, pattern)):
        group, _, member = name.partition("/")
        parts.setdefault(group, []).append(f"{member} {metrics[name]:.2g}".strip())
    line = ""
    for group, values in parts.items():
        longer = f"{line}  {group} {', '.join(values)}" if line else f"{group} {', '.join(values)}"
        if len(longer) > width:
            break
        line = longer
    return line


def device_memory() -> dict[str, float]:
    """Memory in use and its highest mark on the first local device, in GiB; empty on CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {"bytes_in_use": "device_memory_gib", "peak_bytes_in_use": "device_memory_peak_gib"}
    return {f"speed/{new}": stats[old] / 2**30 for old, new in names.items() if old in stats}


class Forecast:
    """What a run will take, from its first steps.

    Attributes:
      total_steps: of the run.
      batch_size: words per step, over all devices.
    """

    CALLS = 5  # that are timed

    def __init__(self, total_steps: int, batch_size: int) -> None:
        self.total_steps, self.batch_size = total_steps, batch_size
        self._calls = 0
        self._timed: list[tuple[int, Future[float]]] = []

    def tick(self, step: int, finished: Future[float]) -> str | None:
        """After a call of the step; nothing is waited for.

        Args:
          step: steps that were started.
          finished: when the last of them is done, from `Progress.tick`.

        Returns:
          What to log, once, when the timed calls are done; None otherwise.
        """
        self._calls += 1
        if self._calls in (1, 1 + self.CALLS):  # the first call compiles, or waits for data
            self._timed.append((step, finished))
        if len(self._timed) < 2 or not self._timed[1][1].done() or step >= self.total_steps:
            return None
        (first, start), (last, end) = self._timed
        self._timed.clear()
        rate = (last - first) * self.batch_size / max(end.result() - start.result(), 1e-9)
        left = self.total_steps - step
        return (
            f"predicted cost: {left * self.batch_size:,} words in {left:,} steps to go at "
            f"{rate:,.0f} words/s, measured over {last - first} steps: "
            f"{tqdm.format_interval(left * self.batch_size / rate)} h:m:s"
        )


class Progress:
    """Clock and progress bar of a loop.

    Words are images: every image of a batch shows one word.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        start_step: int,
        batch_size: int,
        devices: int,
        stream: TextIO | None = None,
        shown: bool = True,
    ) -> None:
        """Starts the clock.

        Args:
          total_steps: of the run.
          start_step: steps done before.
          batch_size: words per step, over all devices.
          devices: over all hosts.
          stream: standard error by default; the bar appears on a terminal alone.
          shown: False on hosts that print nothing.
        """
        stream = stream or sys.stderr
        self._total, self._batch, self._devices = total_steps, batch_size, devices
        self._step = self._reported_step = start_step
        self._reported_at = time.monotonic()
        self._waited = 0.0
        # When the last step that was started is finished; a thread waits for that, not the loop.
        self._finished: Future[float] | None = None
        self._watcher = ThreadPoolExecutor(1, "finished-steps")
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            file=stream,
            disable=not (shown and stream.isatty()),
            unit="step",
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:12}| {n}/{total} {postfix}",
        )

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within as waiting for data, as far as the devices had nothing to do.

        Steps are started ahead of the devices. A wait counts from its beginning, or from when the
        last step that was started is finished, if that is later; if that is not finished when the
        batch comes, the wait has cost nothing and does not count.
        """
        start = time.monotonic()
        try:
            yield
        finally:
            if self._finished is None:
                self._waited += time.monotonic() - start
            elif self._finished.done():
                self._waited += time.monotonic() - max(start, self._finished.result())

    def tick(self, step: int, result: Any) -> Future[float]:
        """Steps up to `step` were started; `result` is what they return, maybe still at work.

        Returns:
          When they are finished, on the clock of `time.monotonic`.
        """
        self._bar.update(step - self._step)
        self._step = step

        def ready() -> float:
            jax.block_until_ready(result)
            return time.monotonic()

        self._finished = self._watcher.submit(ready)
        return self._finished

    def restart_clock(self) -> None:
        """Leaves out of the speed what lies before now (compilation, pictures)."""
        self._reported_step, self._reported_at, self._waited = self._step, time.monotonic(), 0.0

    def report(self, metrics: Mapping[str, float]) -> tuple[dict[str, float], str]:
        """Speed since the last report; call it when the devices have finished the step.

        Args:
          metrics: of the step, on the host.

        Returns:
          Scalars `speed/...`, and a line to print.
        """
        now = time.monotonic()
        elapsed = max(now - self._reported_at, 1e-9)
        steps = self._step - self._reported_step
        speed: dict[str, float] = {}
        parts = [f"step {self._step}/{self._total}"]
        if steps:  # none since the clock was started anew: nothing to say about speed
            rate = steps * self._batch / elapsed
            speed = {
                "speed/words_per_second": rate,
                "speed/words_per_second_and_device": rate / self._devices,
                "speed/steps_per_second": steps / elapsed,
                "speed/share_waiting_for_data": min(self._waited / elapsed, 1.0),
            }
            parts.append(f"{rate:.0f} words/s ({rate / self._devices:.0f} per device)")
            parts.append(f"{speed['speed/share_waiting_for_data']:.0%} waiting for data")
            left = (self._total - self._step) * elapsed / steps
            parts.append(f"{tqdm.format_interval(left)} left")
        speed.update(device_memory())
        said = "  ".join(parts)
        line = f"{said}  {gauges_line(metrics, LINE - len(said) - 2)}".rstrip()
        self._bar.set_postfix_str(line.partition("  ")[2], refresh=True)
        self.restart_clock()
        return speed, line

    def close(self) -> None:
        """Ends the bar."""
        self._watcher.shutdown(wait=False, cancel_futures=True)
        self._bar.close()
