"""Times cases in turns, beside the matrix products that bound them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rcmstr_jax.benchmarking.cases import DTYPES, Program, compiled_program


class Sample(NamedTuple):
    """Repetitions of one program.

    Attributes:
      seconds: median of the wall time.
      spread: largest minus smallest wall time.
      cpu_seconds: median of this process's processor time; other users of the machine disturb it
        less.
    """

    seconds: float
    spread: float
    cpu_seconds: float


def time_in_turns(programs: Mapping[str, Program], repeats: int) -> dict[str, Sample]:
    """Runs every program once uncounted, then all of them in turns.

    What changes on the machine in the meantime then meets all alike.
    """
    wall: dict[str, list[float]] = {name: [] for name in programs}
    cpu: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            program.run()
            if repeat:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
    return {
        name: Sample(
            statistics.median(wall[name]),
            max(wall[name]) - min(wall[name]),
            statistics.median(cpu[name]),
        )
        for name in programs
    }


def matrix_ceiling(precision: str) -> Program:
    """One large matrix product in the given precision: what the machine can do at best."""
    # Large enough to keep every unit busy: 0.1 s on two CPU cores, milliseconds on accelerators.
    size = 2048 if jax.default_backend() == "cpu" else 8192
    factor = jnp.ones((size, size), DTYPES[precision])
    return compiled_program(jax.jit(lambda a, b: a @ b), factor, factor)


def share_of_ceiling(
    program: Program, sample: Sample, ceiling: Program, ceiling_sample: Sample
) -> float | None:
    """Matrix operations per second, relative to those of the ceiling measured beside."""
    if not program.matrix_operations:
        return None
    assert ceiling.matrix_operations is not None
    rate = program.matrix_operations / sample.seconds
    return rate / (ceiling.matrix_operations / ceiling_sample.seconds)
