"""Times cases in turns, beside the fastest matrix operations of the machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rcmstr_jax.benchmarking.cases import DTYPES, Program, compiled_program
from rcmstr_jax.runtime import parallel


class Sample(NamedTuple):
    """Repetitions of one program.

    Attributes:
      seconds: median of the wall time.
      spread: largest minus smallest wall time.
      cpu_seconds: median of this process's processor time; other users of the machine disturb it
        less.
      fastest: smallest wall time.
    """

    seconds: float
    spread: float
    cpu_seconds: float
    fastest: float


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
            min(wall[name]),
        )
        for name in programs
    }


def ceilings(precision: str, devices: int = 1) -> dict[str, Program]:
    """What a machine does fastest: one large matrix product, and two convolutions.

    None of them is the fastest everywhere: convolutions have kernels of their own, on CPU faster
    than the product's. They have the shapes of the full-size encoder, 512 channels.

    Args:
      precision: key of `DTYPES`.
      devices: 1, or all local ones; each does the same.
    """
    # Large enough to keep every unit busy: 0.1 s on two CPU cores, milliseconds on accelerators.
    cpu = jax.default_backend() == "cpu"
    size, batch = (2048, 32) if cpu else (8192, 512)
    dtype = DTYPES[precision]

    def program(function: Callable[..., Any], rows: tuple[int, ...], *fixed: int) -> Program:
        x, weights = jnp.ones((devices * rows[0], *rows[1:]), dtype), jnp.ones(fixed, dtype)
        if devices > 1:
            x, weights = parallel.spread_rows(x), parallel.on_every_device(weights)
        return dataclasses.replace(compiled_program(jax.jit(function), x, weights), devices=devices)

    def convolve(x: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    maps = (batch, 4, 26, 512)
    return {
        "matrix product": program(jnp.matmul, (size, size), size, size),
        "1 x 1 convolution": program(convolve, maps, 1, 1, 512, 512),
        "3 x 3 convolution": program(convolve, maps, 3, 3, 512, 512),
    }


def memory_pass() -> tuple[Program, int]:
    """A program that reads a large array and writes it again, and how many bytes that moves."""
    held = {"x": jnp.ones(2**26)}
    step = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run() -> None:
        held["x"] = jax.block_until_ready(step(held["x"]))

    return Program(run), 2 * held["x"].nbytes


def highest_rate(program: Program, sample: Sample) -> float:
    """Matrix operations per second of the fastest repetition: a ceiling is no average."""
    return (program.matrix_operations or 0.0) / sample.fastest
