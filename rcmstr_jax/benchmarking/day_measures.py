"""What is measured on a day with an accelerator: its arithmetic, steps, loss, views, a profile."""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.benchmarking import report, sparse, step, suite
from rcmstr_jax.benchmarking.cases import Program, Settings, compiled_program
from rcmstr_jax.benchmarking.day import Day
from rcmstr_jax.benchmarking.memory import run_for_peak
from rcmstr_jax.benchmarking.timing import highest_rate, memory_pass, time_in_turns
from rcmstr_jax.metrics.tables import markdown_table
from rcmstr_jax.models import forms
from rcmstr_jax.runtime.errors import RunFailed
from rcmstr_jax.verification.parity.report import check_folder

# Of a test on a CPU: everything is compiled, nothing is large.
SMALL = Settings(width=16, batch=4, queue=256, chunk=64, ratios=(0.7,))
SMALL_FIELDS = {
    "model.blocks": (1, 0, 0, 0),
    "model.depth": 1,
    "model.heads": 2,
    "model.projector": "mlp",
    "model.projector_hidden": 16,
    "views.enabled": False,  # they have a stage of their own
}
SMALL_PARITY = ("sparse_ops.npz",)
PRODUCT = 8192  # rows and columns
TRACED = 3  # steps
LISTED = 12  # operations of a profile
Parts = Iterator[dict[str, Any]]


def arithmetic(day: Day) -> Parts:
    """Rate and error of large products in each precision that can be asked for, and of memory."""
    device, size = jax.local_devices()[0], 256 if day.small else PRODUCT
    stats = device.memory_stats() or {}
    facts = {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.local_device_count(),
        "memory": stats.get("bytes_limit"),
        "jax": jax.__version__,
    }
    yield {"facts": facts, "page": ", ".join(f"{k} {v}" for k, v in facts.items() if v)}
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    exact = x[:64].astype(np.float64) @ y.astype(np.float64)
    programs: dict[str, Program] = {}
    errors: dict[str, float] = {}
    asked = {"as it comes": None, "default": "default", "high": "high", "highest": "highest"}
    for name, precision in asked.items():
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        programs[f"float32, {name}"] = compiled_program(product, x, y)
        errors[f"float32, {name}"] = _error(product(x, y), exact)
    halves = jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)
    programs["bfloat16"] = compiled_program(jax.jit(jnp.matmul), *halves)
    errors["bfloat16"] = _error(jnp.matmul(*halves), exact)
    samples = time_in_turns(programs, 2 if day.small else 10)
    rates = {name: highest_rate(p, samples[name]) for name, p in programs.items()}
    rows = [["product", "TFLOP/s", "largest error"]]
    rows += [[n, f"{rates[n] / 1e12:.4g}", f"{errors[n]:.1e}"] for n in programs]
    run, moved = memory_pass()
    bandwidth = moved / time_in_turns({"memory": run}, 3)["memory"].fastest
    text = f"Memory: {bandwidth / 1e9:.0f} GB/s, read and written."
    yield {
        "rates": rates,
        "errors": errors,
        "bandwidth": bandwidth,
        "page": f"{markdown_table(rows)}\n\nErrors: of products of {size} normal numbers, relative "
        f"to the largest result, in float64. {text}",
    }


def _error(found: Any, exact: np.ndarray) -> float:
    gap = np.asarray(found[: len(exact)], np.float64) - exact
    return float(np.abs(gap).max() / np.abs(exact).max())


def parity(day: Day, precision: str) -> Parts:
    """Figures of the published code, computed here in float32.

    Args:
      day: with the folder of the figures.
      precision: of products: "highest", where all have to agree, or "default", the platform's own,
        where what differs is only said.
    """
    if not day.golden.is_dir():
        raise RunFailed(f"GOLDEN={day.golden} is no folder: carry shared/golden")
    table = [["file", "quantities", "beyond tolerance", "worst, in tolerances"]]
    failed = 0
    with jax.default_matmul_precision(precision):
        for rows in check_folder(day.golden, SMALL_PARITY if day.small else ()):
            over = [row for row in rows if row.verdict == "FAIL"]
            failed += len(over)
            worst = max((r.error / r.tolerance for r in rows if r.tolerance), default=0.0)
            table.append([rows[0].file, str(len(rows)), str(len(over)), f"{worst:.2g}"])
            yield {table[-1][0]: table[-1][1:]}
    yield {"page": markdown_table(table)}
    if failed and precision == "highest":
        raise RunFailed(f"{failed} quantities differ from the published code's")


def measured_step(day: Day, settings: Settings) -> Parts:
    """Seconds of a whole step, and the memory that the compiler predicted beside what it took."""
    settings, fields = _sized(day, settings)
    make_plan = functools.partial(day.make_plan, settings)
    cases = step.step_cases(settings, lambda changed: make_plan({**changed, **fields}))
    case = cases[-1]  # with the masked pass, in its last form: that which "auto" takes
    peak = run_for_peak(case)  # in a process that has done nothing else
    gc.collect()
    repeats = 1 if day.small else 10
    (row,) = suite.measure([case], settings, repeats=repeats, peak_command=None)
    yield _rows([{**row, **peak}])


def table_of(day: Day, what: str, settings: Settings) -> Parts:
    """One of the tables of `launch/benchmark.py`."""
    settings, _ = _sized(day, settings)
    cases = suite.find_cases(what, settings, functools.partial(day.make_plan, settings))
    repeats = 1 if day.small else 5
    yield _rows(suite.measure(cases, settings, repeats=repeats, peak_command=None))


def sparse_forms(day: Day, settings: Settings) -> Parts:
    """Both masked forms at some ratios; writes what "auto" should take into `OUT/forms.json`."""
    settings, _ = _sized(day, settings)
    names = [f"{form} {ratio:g}" for ratio in settings.ratios for form in sparse.FORMS[1:]]
    found = suite.find_cases("sparse", settings, functools.partial(day.make_plan, settings))
    cases = suite.choose_cases(found, names)
    rows = suite.measure(cases, settings, repeats=1 if day.small else 5, peak_command=None)
    table = day.out / "forms.json"
    if not table.is_file():
        shutil.copyfile(forms.PATH, table)
    sparse.update_table(rows, table)
    part = _rows(rows)
    chosen = "\n".join(f"- {line}" for line in sparse.describe_choice(rows))
    part["page"] += f"\n\nWith the shipped table:\n\n{chosen}"
    yield part


def profile(day: Day, settings: Settings) -> Parts:
    """Where the time of a step goes, by the profiler."""
    settings, fields = _sized(day, settings)
    wanted = {**step.step_fields(settings, enabled=True), **fields}
    program = step.prepare_step(lambda: day.make_plan(settings, wanted))
    program.run()
    folder = day.work / "profile"
    shutil.rmtree(folder, ignore_errors=True)
    with jax.profiler.trace(str(folder)):
        for _ in range(TRACED):
            program.run()
    (trace,) = folder.rglob("*.xplane.pb")
    seconds = _operation_seconds(jax.profiler.ProfileData.from_file(str(trace)))
    total = sum(seconds.values())
    rows = [["operation", "ms a step", "share"]]
    for name, taken in seconds.most_common(LISTED):
        rows.append([name[:80], f"{1e3 * taken / TRACED:.3f}", f"{100 * taken / total:.1f} %"])
    said = f"{1e3 * total / TRACED:.1f} ms a step in {len(seconds)} operations."
    yield {
        "milliseconds": {n: 1e3 * t / TRACED for n, t in seconds.most_common(100)},
        "page": f"{said}\n\n{markdown_table(rows)}\n\nThe trace: `work/profile`.",
    }


def _operation_seconds(profile: Any) -> collections.Counter[str]:
    """Seconds by operation, over the accelerator's own lines; on CPU over those of its threads."""
    planes = [plane for plane in profile.planes if plane.name.startswith("/device:")]
    lines = [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]
    if not lines:  # a TPU's operations, or a CPU's threads
        planes = planes or [plane for plane in profile.planes if plane.name == "/host:CPU"]
        wanted = ("XLA Ops", "tf_XLA")
        lines = [line for p in planes for line in p.lines if line.name.startswith(wanted)]
    seconds: collections.Counter[str] = collections.Counter()
    for line in lines:
        for event in line.events:
            seconds[event.name] += event.duration_ns * 1e-9
    if not seconds:
        raise RunFailed(f"the trace names no operation, in {[p.name for p in profile.planes]}")
    return seconds


def _sized(day: Day, settings: Settings) -> tuple[Settings, dict[str, Any]]:
    """The settings, and fields of a pretraining config beside them; in a test small ones."""
    if not day.small:
        return settings, {}
    small = {f.name: getattr(SMALL, f.name) for f in dataclasses.fields(Settings)}
    kept = {"model": settings.model, "precision": settings.precision}
    fields = dict(SMALL_FIELDS)
    if settings.model == "compact":
        fields |= {"model.blocks": (1, 1, 1), "model.width": 16, "model.attention": 1}
    elif settings.model != "cnn":
        fields["model.width"] = 16
    return Settings(**{**small, **kept}), fields


def _rows(rows: Sequence[report.Row]) -> dict[str, Any]:
    return {"rows": list(rows), "page": f"```\n{report.table(rows)}\n```"}
