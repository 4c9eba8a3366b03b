"""Ctrl-C and preemption: finish the step, save, and leave with a code that says "run me again"."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Notices SIGINT and SIGTERM within a `with` block; a second one interrupts at once.

    Of several processes SIGTERM belongs to JAX, from `distributed.connect` on: its preemption
    service tells the others, and finds the step that none of them has passed yet.

    Attributes:
      signal: name of the signal that arrived here, or "".
    """

    def __init__(self) -> None:
        self.signal = ""
        self._before: dict[int, Any] = {}
        self._several = jax.process_count() > 1
        self._asked = 0

    def __enter__(self) -> StopRequest:
        # Python delivers signals to the main thread alone; elsewhere the caller keeps its handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not set by Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt("second signal: stopped without saving")
        self.signal = signal.Signals(number).name
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def agreed(self) -> bool:
        """Whether all processes stop now, because at least one of them was asked to.

        To be called after every step by every process. Nobody waits: a process that was asked
        announces it in the background, and all stop a step after the one that is furthest.
        """
        if not self._several:
            return bool(self.signal)
        # Not the step, which may move by several: JAX waits for the count that follows the highest
        # one. This is the only place that counts.
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)
