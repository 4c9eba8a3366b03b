r"""Measures time, memory and operations of pretraining and of its parts.

  python launch/benchmark.py --what=step|loss|sparse|views|pipeline|decode|costs|recipe|all \
    [--model=cnn --width=512 --batch=32 --queue=65536 --precision=float32 --rectifier] \
    [--cases=NAME,...] [--repeats=5] [--out=FILE] [--baseline=FILE]

--what=sparse also says what the form "auto" takes at each ratio; --update_table makes that choice
anew for this platform, precision and width, and writes it to rcmstr_jax/models/forms.json.

Five subjects measure no case, they count:
  costs         what every term of a step computes and moves, and the least time that takes at the
                speed of this machine's fastest matrix operations and memory
  sparse_costs  what the masked pass computes and moves, by the share that is hidden; --drawing=FILE
                shows which sites of every resolution one random mask keeps active (SVG)
  scaling       the exchanges of the compiled step of --config=NAME[:variant] on many chips, and the
                predicted times (docs/scaling.md; minutes, on eight fake CPU devices)
  recipe        what --config=NAME[:variant] comes to: images, rates, averages, queues, predicted
                cost, and with --gradients=N how strongly each term pulls at the encoder of a fresh
                state, on N rendered words; without --config all shipped ones (docs/recipes.md)
  compile       memory, traffic and roofline of that step, as the compiler for --topology=v5e:2x4
                (or another TPU; cpu or gpu: this machine) makes it (docs/accelerators.md; minutes)

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
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from rcmstr_jax.benchmarking import (
    compiled,
    pipeline,
    recipe,
    report,
    scaling_tables,
    sparse,
    sparse_costs,
    step,
    step_costs,
    suite,
)
from rcmstr_jax.benchmarking.cases import Case, Settings
from rcmstr_jax.benchmarking.memory import run_for_peak
from rcmstr_jax.launch import field_flags
from rcmstr_jax.launch.step_plans import plan_with
from rcmstr_jax.metrics.tables import markdown_table
from rcmstr_jax.models.forms import measured_table
from rcmstr_jax.plotting.sites import draw_sites
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.ssl.masking import draw_mask
from rcmstr_jax.training.plan import ModelPlan

# Beside the checkout; left out where they are absent, and no --source is given.
REAL_WORDS = Path(__file__).resolve().parents[2] / "shared" / "real" / "train"
# Not measured, but counted.
COUNTED = ("costs", "sparse_costs", "scaling", "recipe", "compile")
WHAT = flags.DEFINE_enum("what", None, [*suite.WHAT, *COUNTED, "all"], "What to measure.")
field_flags.define(Settings)
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each case.", lower_bound=1)
CASES = flags.DEFINE_list("cases", [], "Names of rows to measure; empty for all.")
MEMORY = flags.DEFINE_boolean("memory", True, "Also measure peak memory, in further processes.")
OUT = flags.DEFINE_string("out", None, "File of JSON lines to add to.")
BASELINE = flags.DEFINE_string("baseline", None, "File of JSON lines to compare with.")
UPDATE_TABLE = flags.DEFINE_boolean("update_table", False, "Choose anew what auto takes (sparse).")
PEAK_OF = flags.DEFINE_string("peak_of", None, "Run this one case and print its peak memory.")
DRAWING = flags.DEFINE_string("drawing", None, "sparse_costs: SVG file of a mask's sites to write.")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "scaling, recipe, compile: NAME[:variant]."
)
CHIPS = flags.DEFINE_multi_integer("chips", [8, 64, 512], "scaling: numbers of chips.")
SHARE = flags.DEFINE_float("peak_share", 0.4, "scaling: of the peak, by products.", 0.01, 1.0)
GRADIENTS = flags.DEFINE_integer("gradients", 0, "recipe: images to differentiate.", lower_bound=0)
TOPOLOGY = flags.DEFINE_string("topology", None, "compile: cpu, gpu, or a TPU's: v5e:2x4.")
flags.mark_flag_as_required("what")


def settings_from_flags() -> Settings:
    """The flags as settings.

    Raises:
      ConfigError: naming the flag that cannot work.
    """
    given = field_flags.given(Settings)
    if REAL_WORDS.exists():
        given.setdefault("source", f"lmdb:{REAL_WORDS}")
    try:
        return Settings(**given)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error


def peak_command(case: Case) -> list[str]:
    """This command again, for the memory of one case."""
    return [sys.executable, *sys.argv, f"--what={case.what}", f"--peak_of={case.name}"]


def share_compiled_programs() -> tempfile.TemporaryDirectory:
    """A cache of compiled programs for this process and those that it starts.

    The processes that measure memory load what this one compiles, so that the compiler's memory
    does not count. They need a device that this one has not filled.
    """
    folder = tempfile.TemporaryDirectory(prefix="rcmstr-benchmark-")
    settings = {
        "JAX_COMPILATION_CACHE_DIR": folder.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }
    for name, value in settings.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            jax.config.update(name.lower(), value)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return folder


def count(settings: Settings) -> None:
    """Prints what one of `COUNTED` finds."""
    if WHAT.value == "costs":
        plan = plan_with(settings, step.step_fields(settings))
        print(step_costs.report(plan, REPEATS.value))
    elif WHAT.value == "sparse_costs":
        print(markdown_table(sparse_costs.cost_table(settings.width, settings.ratios)))
        if DRAWING.value:
            mask = draw_mask(jax.random.key(0), 1, ModelPlan().grid)
            drawing = draw_sites(np.asarray(mask[0]), (32, 100))
            Path(DRAWING.value).write_text(drawing, encoding="utf-8")
            print(f"written: {DRAWING.value}")
    elif WHAT.value == "recipe":
        named = dict.fromkeys(recipe.SHIPPED)
        if CONFIG.value is None:
            print(recipe.HEAD)
        else:
            given = config_flags.get_config_filename(flags.FLAGS["config"])
            named = {os.path.relpath(given): CONFIG.value}
        for name, config in named.items():
            config = config or command_line.load_config(name, command_line.PRETRAIN)
            print("\n" + recipe.page(name, config, gradients=GRADIENTS.value), flush=True)
    elif CONFIG.value is None:
        raise ConfigError(f"--what={WHAT.value}: give --config=NAME, rcmstr_cnn for example")
    elif WHAT.value == "compile":
        if TOPOLOGY.value is None:
            raise ConfigError("--what=compile: give --topology=v5e:2x4, or cpu for this machine")
        if TOPOLOGY.value != "gpu":
            jax.config.update("jax_platforms", "cpu")
        for part in compiled.report(CONFIG.value, compiled.find_target(TOPOLOGY.value)):
            print(part, flush=True)
    else:
        os.environ["XLA_FLAGS"] = scaling_tables.XLA_FLAGS
        jax.config.update("jax_platforms", "cpu")
        for part in scaling_tables.report(CONFIG.value, CHIPS.value, SHARE.value):
            print(part, flush=True)


def measure(settings: Settings) -> None:
    """Measures the cases of the tables that are asked for, and prints and writes them."""
    make_plan = functools.partial(plan_with, settings)
    with command_line.one_line_errors(mistakes=(ValueError,)):
        if UPDATE_TABLE.value:
            sparse.check_update(str(WHAT.value), settings, CASES.value)
        baseline = report.read_rows(Path(BASELINE.value)) if BASELINE.value else []
        tables = {
            what: suite.choose_cases(suite.find_cases(what, settings, make_plan), CASES.value)
            for what in suite.tables_of(str(WHAT.value), settings)
        }
    if PEAK_OF.value:
        (case,) = (case for case in tables[str(WHAT.value)] if case.name == PEAK_OF.value)
        print(json.dumps(run_for_peak(case)))
        return
    command = peak_command if MEMORY.value else None
    for what, cases in tables.items():
        rows = suite.measure(cases, settings, repeats=REPEATS.value, peak_command=command)
        print(f"\n{report.table(rows)}", flush=True)
        if what == "sparse" and not CASES.value:
            if UPDATE_TABLE.value:
                sparse.update_table(rows)
                measured_table.cache_clear()
            print("\n".join(sparse.describe_choice(rows)), flush=True)
        if what == "pipeline":
            print("\n".join(pipeline.describe_workers(rows)), flush=True)
        if BASELINE.value:
            print(f"\n{report.compare(rows, baseline)}", flush=True)
        if OUT.value:
            report.append_rows(Path(OUT.value), rows)


def main(argv: Sequence[str]) -> int:
    """Measures or counts; returns the exit code."""
    del argv
    with command_line.one_line_errors(RuntimeError), share_compiled_programs():
        settings = settings_from_flags()
        (count if WHAT.value in COUNTED else measure)(settings)
    return 0


run = command_line.command(main, room=command_line.PRETRAIN)  # rcmstr-benchmark

if __name__ == "__main__":
    run()
