"""Report of the records that could not be used: each is named once.

Decoding runs in worker processes; what they find travels with the batch (`Fault`) and enters the
one log of the main process when the batch is taken.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rcmstr_jax.data.records import BadRecord, RecordSource
from rcmstr_jax.runtime.files import write_json

# Between two writings by `flush`.
_FLUSH_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """One unusable record: where it lies and what is wrong with it."""

    source: str
    key: str
    reason: str
    detail: str = ""


def fault_of(error: BadRecord, source: RecordSource, index: int, record_key: str = "") -> Fault:
    """The fault for `error`, met at `source[index]`; the error's own place comes first."""
    return Fault(
        error.source if error.source is not None else source.name,
        error.key if error.key is not None else (record_key or str(index)),
        error.reason,
        error.detail,
    )


def count_reasons(faults: Iterable[Fault]) -> dict[str, int]:
    """Number of faults per reason, in order of the reasons."""
    return dict(sorted(collections.Counter(fault.reason for fault in faults).items()))


class FaultLog:
    """Unusable records of a run, each counted and named once however often it is met.

    With a path, an earlier report there is taken over (a run that resumes keeps its faults) and
    `write` replaces it as a whole.

    Attributes:
      path: the JSON report (`faults.json` in the workdir), or None to keep it in memory.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._faults: dict[tuple[str, str], Fault] = {}
        self._changed = False
        self._written = 0.0
        if self.path is not None and self.path.exists():
            self._restore(self.path)

    def __len__(self) -> int:
        return len(self._faults)

    def add(self, fault: Fault) -> bool:
        """Adds a fault; returns whether its record was not yet known. Warns about the first."""
        place = (fault.source, fault.key)
        if place in self._faults:
            return False
        if not self._faults:
            _log.warning(
                "unusable record %s %s: %s; later ones are only counted%s",
                fault.source,
                fault.key,
                fault.reason,
                f" in {self.path}" if self.path is not None else "",
            )
        self._faults[place] = fault
        self._changed = True
        return True

    def extend(self, faults: Iterable[Fault]) -> None:
        """Adds several faults."""
        for fault in faults:
            self.add(fault)

    def clear(self) -> None:
        """Forgets everything, also what an earlier report held."""
        self._faults, self._changed = {}, True

    def faults(self) -> list[Fault]:
        """All faults, ordered by source and key."""
        return sorted(self._faults.values())

    def counts(self) -> dict[str, int]:
        """Number of unusable records per reason."""
        return count_reasons(self._faults.values())

    def report(self) -> dict[str, object]:
        """The report as it is written: totals, per reason, per source, and every record."""
        by_source = collections.Counter(fault.source for fault in self._faults.values())
        return {
            "total": len(self._faults),
            "by_reason": self.counts(),
            "by_source": dict(sorted(by_source.items())),
            "records": [fault._asdict() for fault in self.faults()],
        }

    def flush(self) -> None:
        """Writes the report if it changed and the last writing is some seconds old."""
        if self._changed and time.monotonic() - self._written > _FLUSH_SECONDS:
            self.write()

    def write(self) -> None:
        """Writes the report if it changed; the file is always whole."""
        if self.path is None or not self._changed:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.report())
        self._changed = False
        self._written = time.monotonic()

    def _restore(self, path: Path) -> None:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            found = [Fault(**fields) for fields in report["records"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a report of unusable records ({error}); move it away or delete it"
            ) from error
        self._faults = {(fault.source, fault.key): fault for fault in found}
