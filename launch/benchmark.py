r"""Measures time, memory and operations of pretraining and of its parts.

  python launch/benchmark.py --what=step|loss|sparse|views|pipeline|decode|costs|all \
    [--model=cnn --width=512 --batch=32 --queue=65536 --precision=float32 --rectifier] \
    [--cases=NAME,...] [--repeats=5] [--out=FILE] [--baseline=FILE]

--what=sparse also says what the form "auto" takes at each ratio; --update_table makes that choice
anew for this platform, precision and width, and writes it to rcmstr_jax/models/forms.json.

--what=costs measures no case: it counts what every term of a step computes and moves, and prints
the least time that takes at the speed of this machine's fastest matrix operations and memory.

Prints a table per subject. --out appends every row as a JSON line, --baseline compares with such a
file. Cases of a table run in turns in one process, after one run each that is not counted; peak
memory is that of a process of its own. docs/performance.md says what the columns mean.

Exit codes: 0 measured; 1 failed; 2 a mistake in the flags.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

REPOSITORY = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Before JAX is imported: the processes that measure memory load what this one compiles, so
    # that the compiler's memory does not count. They need a device that this one has not filled.
    _compiled = tempfile.TemporaryDirectory(prefix="rcmstr-benchmark-")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from rcmstr_jax.benchmarking import pipeline, report, sparse, step, step_costs, suite
from rcmstr_jax.benchmarking.cases import DTYPES, MODELS, Case, Settings
from rcmstr_jax.benchmarking.memory import run_for_peak
from rcmstr_jax.configs.pretrain import common
from rcmstr_jax.models.forms import measured_table
from rcmstr_jax.runtime.command_line import one_line_errors, parse_flags
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan

WHAT = flags.DEFINE_enum("what", None, [*suite.WHAT, "costs", "all"], "What to measure.")
MODEL = flags.DEFINE_enum("model", "cnn", MODELS, "Encoder.")
WIDTH = flags.DEFINE_integer("width", 512, "Output width of the CNN.")
BATCH = flags.DEFINE_integer("batch", 32, "Words per step.")
QUEUE = flags.DEFINE_integer("queue", 65_536, "Keys per queue.")
CHUNK = flags.DEFINE_integer("chunk", None, "Queue entries at a time.", lower_bound=1)
PRECISION = flags.DEFINE_enum("precision", "float32", list(DTYPES), "Arithmetic.")
RECTIFIER = flags.DEFINE_boolean("rectifier", False, "Put the rectifier in front of the CNN.")
RATIOS = flags.DEFINE_list("ratios", ["0.3", "0.5", "0.7", "0.9"], "Shares of hidden patches.")
SOURCE = flags.DEFINE_string(
    "source",
    f"lmdb:{REPOSITORY.parent / 'shared' / 'real' / 'train'}",
    "Real words for pipeline and decode; the default is left out where it is absent.",
)
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each case.", lower_bound=1)
CASES = flags.DEFINE_list("cases", [], "Names of rows to measure; empty for all.")
MEMORY = flags.DEFINE_boolean("memory", True, "Also measure peak memory, in further processes.")
OUT = flags.DEFINE_string("out", None, "File of JSON lines to add to.")
BASELINE = flags.DEFINE_string("baseline", None, "File of JSON lines to compare with.")
UPDATE_TABLE = flags.DEFINE_boolean("update_table", False, "Choose anew what auto takes (sparse).")
PEAK_OF = flags.DEFINE_string("peak_of", None, "Run this one case and print its peak memory.")
flags.mark_flag_as_required("what")


def settings_from_flags() -> Settings:
    """The flags as settings.

    Raises:
      ConfigError: naming the flag that cannot work.
    """
    present = SOURCE.present or Path(SOURCE.value.removeprefix("lmdb:")).exists()
    try:
        ratios = tuple(float(ratio) for ratio in RATIOS.value)
    except ValueError as error:
        raise ConfigError(f"--ratios={','.join(RATIOS.value)}: give numbers, 0.5,0.7") from error
    try:
        return Settings(
            model=MODEL.value,
            width=WIDTH.value,
            batch=BATCH.value,
            queue=QUEUE.value,
            precision=PRECISION.value,
            rectifier=RECTIFIER.value,
            ratios=ratios,
            source=SOURCE.value if present else "",
        )
    except ValueError as error:
        raise ConfigError(f"--{error}") from error


def plan_with(settings: Settings, fields: Mapping[str, Any]) -> PretrainPlan:
    """The plan of the default config for this encoder with some fields changed."""
    config = common.get_config()
    if settings.model != "cnn":
        common.use_vit(config)
    if CHUNK.value is not None:
        config.contrast.chunk = CHUNK.value
    config.update_from_flattened_dict(fields)
    return pretrain_plan(config, devices=jax.local_device_count())


def peak_command(case: Case) -> list[str]:
    """This command again, for the memory of one case."""
    kept = [f"--what={case.what}", f"--peak_of={case.name}"]
    return [sys.executable, *sys.argv, *kept]


def main(argv: Sequence[str]) -> int:
    """Measures, prints and writes; returns the exit code."""
    del argv
    logging.set_verbosity(logging.WARNING)  # of the libraries below
    with one_line_errors(RuntimeError):
        settings = settings_from_flags()
        if WHAT.value == "costs":
            plan = plan_with(settings, step.step_fields(settings))
            print(step_costs.report(plan, REPEATS.value))
            return 0
        try:
            if UPDATE_TABLE.value:
                sparse.check_update(str(WHAT.value), settings, CASES.value)
            make_plan = functools.partial(plan_with, settings)
            baseline = report.read_rows(Path(BASELINE.value)) if BASELINE.value else []
            tables = {
                what: suite.choose_cases(suite.find_cases(what, settings, make_plan), CASES.value)
                for what in suite.tables_of(str(WHAT.value), settings)
            }
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if PEAK_OF.value:
            (case,) = (case for case in tables[str(WHAT.value)] if case.name == PEAK_OF.value)
            print(json.dumps(run_for_peak(case)))
            return 0
        for cases in tables.values():
            rows = suite.measure(
                cases,
                settings,
                repeats=REPEATS.value,
                peak_command=peak_command if MEMORY.value else None,
            )
            print(f"\n{report.table(rows)}", flush=True)
            if rows and rows[0]["what"] == "sparse" and not CASES.value:
                if UPDATE_TABLE.value:
                    sparse.update_table(rows)
                    measured_table.cache_clear()
                print("\n".join(sparse.describe_choice(rows)), flush=True)
            if rows and rows[0]["what"] == "pipeline":
                print("\n".join(pipeline.describe_workers(rows)), flush=True)
            if BASELINE.value:
                print(f"\n{report.compare(rows, baseline)}", flush=True)
            if OUT.value:
                report.append_rows(Path(OUT.value), rows)
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
