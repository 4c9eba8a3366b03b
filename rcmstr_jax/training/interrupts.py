"""Ctrl-C and preemption: finish the step, save, and leave with a code that says "run me again"."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

from rcmstr_jax.training.distributed import flags_of_hosts

logger = logging.getLogger(__name__)

# What launch/ exits with. 75 is EX_TEMPFAIL of sysexits.h: try again, and it goes away. So is 76,
# where another process of the run was lost, and nothing could be saved any more.
EXIT_FAILED, EXIT_CONFIG, EXIT_PREEMPTED, EXIT_LOST = 1, 2, 75, 76


class StopRequest:
    """Notices SIGINT and SIGTERM within a `with` block; a second one interrupts at once.

    Attributes:
      signal: name of the signal that arrived, or "".
    """

    def __init__(self) -> None:
        self.signal = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python delivers signals to the main thread alone; elsewhere the caller keeps its handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not set by Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt("second signal: stopped without saving")
        self.signal = signal.Signals(number).name

    def agreed(self, step: int, every: int) -> bool:
        """Whether all hosts stop after this step, because at least one of them was asked to.

        Args:
          step: finished steps, the same on every host.
          every: with several hosts, steps between two exchanges; each waits for the devices.
        """
        if jax.process_count() == 1:
            return bool(self.signal)
        if step % every:
            return False
        return bool(flags_of_hosts(bool(self.signal)).any())
