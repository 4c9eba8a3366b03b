"""From settings to rows: which cases there are, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from rcmstr_jax.benchmarking import loss, pipeline, sparse, step
from rcmstr_jax.benchmarking.cases import Case, Program, Settings
from rcmstr_jax.benchmarking.memory import peak_in_fresh_process
from rcmstr_jax.benchmarking.report import SETTINGS, Row
from rcmstr_jax.benchmarking.timing import Sample, ceilings, highest_rate, time_in_turns

WHAT = ("step", "loss", "sparse", "views", "pipeline", "decode")


def tables_of(what: str, settings: Settings) -> tuple[str, ...]:
    """The tables that a name stands for: "all" are those that the encoder has."""
    if what != "all":
        return (what,)
    return tuple(name for name in WHAT if name != "sparse" or settings.model == "cnn")


def find_cases(what: str, settings: Settings, make_plan: step.MakePlan) -> list[Case]:
    """The cases of a table.

    Args:
      what: one of `WHAT`.
      settings: sizes.
      make_plan: see `step.step_cases`; of a pretraining config for the encoder that is meant.

    Raises:
      ValueError: on another name, or an encoder that the table is not about.
    """
    if what == "sparse" and settings.model != "cnn":
        raise ValueError(
            f"--what=sparse is about the CNN; --model={settings.model} has no such form"
        )
    makers: dict[str, Callable[[], list[Case]]] = {
        "step": lambda: step.step_cases(settings, make_plan),
        "loss": lambda: loss.cases(settings),
        "sparse": lambda: sparse.cases(settings),
        "views": lambda: step.view_cases(settings),
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
    """Times the cases in turns, and measures each one's memory in a process of its own.

    On CPU those processes come last and load what was compiled here; on an accelerator they come
    first, since this process keeps the memory of a device that it has used.

    Args:
      cases: that are compared with one another.
      settings: they are written into the rows.
      repeats: timed runs of each, after one that is not counted.
      peak_command: starts a process that calls `memory.run_for_peak` for a case; None leaves
        memory out.
    """

    def measure_memory() -> dict[str, dict[str, int | None]]:
        if peak_command is None:
            return {}
        return {case.name: peak_in_fresh_process(peak_command(case)) for case in cases}

    peaks = measure_memory() if jax.default_backend() != "cpu" else {}
    programs = {case.name: case.prepare() for case in cases}
    highest: dict[str, Program] = {}
    if any(program.matrix_operations for program in programs.values()):
        highest = ceilings(settings.precision, max(p.devices for p in programs.values()))
    samples = time_in_turns({**programs, **highest}, repeats)
    ceiling = max((highest_rate(p, samples[name]) for name, p in highest.items()), default=0.0)
    rows = [_row(case, programs[case.name], samples[case.name], ceiling) for case in cases]
    # Held arrays would be counted against the processes that follow.
    programs.clear()
    highest.clear()
    peaks = peaks or measure_memory()
    shared = {
        "repeats": repeats,
        "platform": jax.default_backend(),
        **{name: getattr(settings, name) for name in SETTINGS},
    }
    return [{**row, **peaks.get(row["case"], {}), **shared} for row in rows]


def _row(case: Case, program: Program, sample: Sample, ceiling: float) -> Row:
    """What a case took; its memory is not known yet."""
    work = program.matrix_operations
    return {
        "what": case.what,
        "case": case.name,
        "seconds": sample.seconds,
        "spread": sample.spread,
        "words_per_second": case.words and case.words / sample.seconds,
        "peak_bytes": None,
        "share_of_ceiling": work / sample.seconds / ceiling if work else None,
        **case.keys,
        "cpu_seconds": sample.cpu_seconds,
        "extra_bytes": None,
        "predicted_bytes": program.predicted,
        "operations": program.operations,
        "matrix_operations": work,
    }
