"""Steps without a finite loss and gradient: which term went first, and when to give up."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.errors import RunFailed

logger = logging.getLogger(__name__)

# Metrics in the order in which a step computes them: what is not finite spoils what comes later.
_ORDER = (
    "key_variance/*",
    "nce/*",
    "relation_kl/*",
    "loss/contrast",
    "loss/mim",
    "loss",
    "grad_norm",
)


class TrainingDiverged(RunFailed):
    """Too many steps in a row without a finite loss or gradient."""


def not_finite(numbers: Mapping[str, float]) -> list[str]:
    """Names of the terms that are infinite or undefined, in the order of their computation."""
    names = sorted(name for name, value in numbers.items() if not np.isfinite(value))
    return [name for pattern in _ORDER for name in fnmatch.filter(names, pattern)]


class SkippedSteps:
    """Watches the metrics of every step, without waiting for the devices between two log steps."""

    def __init__(
        self,
        limit: int,
        sections: tuple[str, str] = ("config", "config.optimizer"),
        per_call: int = 1,
    ) -> None:
        """Starts counting.

        Args:
          limit: number of steps in a row that the run survives.
          sections: of the config that hold `max_skipped`, and the learning rate.
          per_call: steps whose metrics come together.
        """
        self._limit, self._sections, self._per_call = limit, sections, per_call
        self._kept: list[tuple[int, Mapping[str, Any]]] = []
        self._skipped = 0.0
        self._first = "before this process was started"
        self._in_row = 0.0

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Remembers the metrics of a step, still on the devices."""
        self._kept.append((step, metrics))

    def check(self, numbers: Mapping[str, float]) -> None:
        """Looks through what was added since the last call.

        Args:
          numbers: metrics of the last step, on the host.

        Raises:
          TrainingDiverged: if there were more in a row than the limit, also if that row has ended,
            naming the step and the term that went first.
        """
        kept, self._kept = self._kept, []
        if numbers["skipped"] == self._skipped and not numbers["skipped_in_row"]:
            return
        self._skipped = numbers["skipped"]
        for number, metrics in kept:
            found = {k: float(v) for k, v in parallel.unreplicate(dict(metrics)).items()}
            in_row, before = found["skipped_in_row"], self._in_row
            self._in_row = in_row
            # A longer row than the call began before it.
            if 0 < in_row <= self._per_call and (not before or in_row == 1):
                names = not_finite(found) or ["loss"]
                self._first = f"at step {number}, {names[0]}"
                logger.warning(
                    "step %d was skipped: not finite, in order, are %s", number, ", ".join(names)
                )
            if in_row > self._limit:
                own, optimizer = self._sections
                raise TrainingDiverged(
                    f"step {number}: {in_row:.0f} steps in a row had no finite loss or gradient, "
                    f"more than {own}.max_skipped={self._limit}; the first that was not finite: "
                    f"{self._first}. They changed no parameter, and the last checkpoint is kept: "
                    f"lower {optimizer}.learning_rate, or set {optimizer}.clip"
                )
