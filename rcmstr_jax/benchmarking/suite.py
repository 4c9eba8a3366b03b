"""From settings to rows: which cases there are, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from ml_collections import ConfigDict

from rcmstr_jax.benchmarking import loss, pipeline, sparse, step, views
from rcmstr_jax.benchmarking.cases import Case, Settings
from rcmstr_jax.benchmarking.memory import peak_in_fresh_process
from rcmstr_jax.benchmarking.report import Row
from rcmstr_jax.benchmarking.timing import matrix_ceiling, share_of_ceiling, time_in_turns

WHAT = ("step", "loss", "sparse", "views", "pipeline", "decode")
_CEILING = "matrix product"
_RECORDED = ("model", "width", "batch", "queue", "precision", "rectifier")


def find_cases(what: str, settings: Settings, base: ConfigDict) -> list[Case]:
    """The cases of a table.

    Args:
      what: one of `WHAT`.
      settings: sizes.
      base: a pretraining config for the encoder that is meant.

    Raises:
      ValueError: on another name, or an encoder that the table is not about.
    """
    if what == "sparse" and settings.model != "cnn":
        raise ValueError(
            f"--what=sparse is about the CNN; --model={settings.model} has no such form"
        )
    makers: dict[str, Callable[[], list[Case]]] = {
        "step": lambda: step.cases(settings, base),
        "loss": lambda: loss.cases(settings, chunk=base.contrast.chunk),
        "sparse": lambda: sparse.cases(settings),
        "views": lambda: views.cases(settings),
        "pipeline": lambda: pipeline.pipeline_cases(settings),
        "decode": lambda: pipeline.decode_cases(settings),
    }
    if what not in makers:
        raise ValueError(f"--what={what} is unknown; use one of {', '.join((*WHAT, 'all'))}")
    return makers[what]()


def choose_cases(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """The cases of these names; all if none is given.

    Raises:
      ValueError: naming what there is.
    """
    known = [case.name for case in cases]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--cases: there is no {unknown[0]!r}; known are {', '.join(known)}")
    return [case for case in cases if not names or case.name in names]


def measure(
    cases: Sequence[Case],
    settings: Settings,
    *,
    repeats: int,
    peak_command: Callable[[Case], Sequence[str]] | None,
) -> list[Row]:
    """Times the cases in turns, then each one's memory in a process of its own.

    Args:
      cases: that are compared with one another.
      settings: they are written into the rows.
      repeats: timed runs of each, after one that is not counted.
      peak_command: starts a process that calls `memory.run_for_peak` for a case; None leaves
        memory out.
    """
    programs = {case.name: case.prepare() for case in cases}
    ceiling = matrix_ceiling(settings.precision)
    samples = time_in_turns({**programs, _CEILING: ceiling}, repeats)
    # Held arrays would be counted against the processes that follow.
    found = {
        name: (
            program.operations,
            program.matrix_operations,
            share_of_ceiling(program, samples[name], ceiling, samples[_CEILING]),
        )
        for name, program in programs.items()
    }
    programs.clear()
    rows = []
    for case in cases:
        sample = samples[case.name]
        operations, matrix_operations, share = found[case.name]
        peak: dict[str, int | None] = {"peak_bytes": None, "extra_bytes": None}
        if peak_command is not None:
            peak = peak_in_fresh_process(peak_command(case))
        rows.append(
            {
                "what": case.what,
                "case": case.name,
                "seconds": sample.seconds,
                "spread": sample.spread,
                "words_per_second": case.words and case.words / sample.seconds,
                "peak_bytes": peak["peak_bytes"],
                "share_of_ceiling": share,
                **case.keys,
                "cpu_seconds": sample.cpu_seconds,
                "extra_bytes": peak["extra_bytes"],
                "operations": operations,
                "matrix_operations": matrix_operations,
                "repeats": repeats,
                "platform": jax.default_backend(),
                **{name: getattr(settings, name) for name in _RECORDED},
            }
        )
    return rows
