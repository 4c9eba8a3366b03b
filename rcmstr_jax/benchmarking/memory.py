"""Peak memory of a case, in a process that does nothing else."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax

from rcmstr_jax.benchmarking.cases import Case


def peak_in_fresh_process(command: Sequence[str]) -> dict[str, int | None]:
    """Runs `command`, which prints what `run_for_peak` returns as its last line.

    Raises:
      RuntimeError: the process failed; with the end of what it said.
    """
    done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"measuring memory with {' '.join(command)} failed ({done.returncode}): "
            f"{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_for_peak(case: Case) -> dict[str, int | None]:
    """Builds a case and runs it twice in this process.

    Returns:
      `peak_bytes`: on CPU the largest resident memory of the process, building the case included;
      on an accelerator the first device's. `extra_bytes`: what running the case took above what was
      held before, arguments and compiled program; None where the system does not tell, as on an
      accelerator, whose mark cannot be lowered, when building took more than running.
    """
    program = case.prepare()
    device = jax.local_devices()[0]
    before = device.memory_stats()
    peak_before = before["peak_bytes_in_use"] if before else _resident_peak()
    held = before["bytes_in_use"] if before else _forget_peak()
    for _ in range(2):
        program.run()
    peak = device.memory_stats()["peak_bytes_in_use"] if before else _resident_peak()
    raised = not before or peak > peak_before
    extra = peak - held if held is not None and raised else None
    return {"peak_bytes": max(peak, peak_before), "extra_bytes": extra}


def _resident_peak() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak() -> int | None:
    """Lowers the mark of the largest resident memory to what is held now, and returns that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed: the mark stays
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    status = Path("/proc/self/status")
    text = status.read_text(encoding="ascii") if status.exists() else ""
    found = re.search(rf"^{field}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
