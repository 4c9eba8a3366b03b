"""A profiler trace of some steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import jax

from rcmstr_jax.runtime.errors import ConfigError

logger = logging.getLogger(__name__)


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """`"10-12"` to (10, 12), both included; None without a text.

    Raises:
      ConfigError: if it is no range of steps.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if not found or not 0 < int(found[1]) <= int(found[2]):
        raise ConfigError(
            f"--profile_steps={text} is no range of steps: write FIRST-LAST, for example 10-12"
        )
    return int(found[1]), int(found[2])


class Tracer:
    """Traces the steps of a range into a folder, and nothing without a range."""

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        """Takes first and last step, counted from 1, and where the trace goes."""
        self._first, self._last = steps or (1, 0)
        self._folder = folder
        self._running = False

    def before(self, step: int) -> None:
        """Starts before the first step of the range, or the first one that is left of it."""
        if self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Ends the trace when the result of the last step is there."""
        if self._running and step == self._last:
            jax.block_until_ready(result)
            self._end()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._end()

    def _end(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
        logger.info("trace of the steps: tensorboard --logdir=%s", self._folder)
