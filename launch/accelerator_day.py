r"""Measures and trains on one accelerator for 25 minutes, and writes one page about it.

  bash launch/accelerator_day.sh OUT

which says what the machine needs and calls this. Stages whose results lie in OUT are not run again.

Exit codes: 0 all stages done; 1 one failed, or had no time: the page says which; 2 a mistake in the
flags; 75 the time of this command was up, the same command goes on.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rcmstr_jax.benchmarking import day_measures as measures
from rcmstr_jax.benchmarking import day_training as training
from rcmstr_jax.benchmarking.cases import Settings
from rcmstr_jax.benchmarking.day import Day, Stage, Unfinished, run_day, run_here, write_page
from rcmstr_jax.configs.evaluate import compact as recogniser
from rcmstr_jax.configs.pretrain import compact, mini
from rcmstr_jax.launch.step_plans import plan_with
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import EXIT_PREEMPTED
from rcmstr_jax.runtime.provenance import code_version

GOLDEN = Path(__file__).resolve().parent.parent.parent / "shared" / "golden"
OUT = flags.DEFINE_string("out", None, "Folder of the results.", required=True)
SIZE = flags.DEFINE_enum("size", "full", ["full", "test"], "test: everything, as small as it gets.")
MINUTES = flags.DEFINE_float("minutes", 25.0, "Of all stages together (full size).", 1.0)
LIMIT = flags.DEFINE_float("limit", 0.0, "Seconds of this command; 0: no limit.", 0.0)
STAGES = flags.DEFINE_list("stages", [], "The only stages to run, done or not; empty for all.")
GOLDEN_DIR = flags.DEFINE_string("golden", str(GOLDEN), "Folder of the golden .npz files.")
WORDS = flags.DEFINE_string("words", "", "Text file of words to render; empty: of Python's manual.")
BENCHMARKS = flags.DEFINE_string("benchmarks", "", "Folder of real sets that are scored as well.")
ONE = flags.DEFINE_string("one", "", "Run this one stage in this process, for --seconds.")
SECONDS = flags.DEFINE_float("seconds", 60.0, "See --one.", 1.0)


def stages() -> list[Stage]:
    """All of them, by worth: a day that ends early has had the first ones."""

    def measured(model: str, precision: str, batch: int, minutes: float = 5.0) -> Stage:
        settings = Settings(model=model, precision=precision, batch=batch)
        name = f"step_{model}_{precision}".replace("-", "_")
        run = functools.partial(measures.measured_step, settings=settings)
        return Stage(name, f"Step: {model}, {precision}, {batch} images", run, minutes)

    def table(what: str, title: str, settings: Settings) -> Stage:
        run = functools.partial(measures.table_of, what=what, settings=settings)
        return Stage(what, title, run, 3.0)

    half = functools.partial(Settings, precision="bfloat16")
    small = half(model="vit-small", batch=256)
    return [
        Stage("arithmetic", "The machine and its arithmetic", measures.arithmetic, 2.0),
        Stage("smoke", "Smoke test", training.smoke, 4.0),
        measured("vit-small", "bfloat16", 256),
        measured("cnn", "bfloat16", 256),
        measured("compact", "bfloat16", training.BATCH),
        Stage("profile", "Profile of the step of ViT small, bfloat16, 256 images",
              functools.partial(measures.profile, settings=small), 3.0),
        measured("vit-small", "float32", 256),
        table("loss", "Loss: 256 images, 65,536 keys", half(model="vit-small", batch=256)),
        table("views", "Views of 256 images", half(batch=256)),
        Stage("parity", "Parity, products in full float32",
              functools.partial(measures.parity, precision="highest")),
        measured("vit-base", "bfloat16", 128),
        Stage("sparse", "Forms of the masked pass, bfloat16",
              functools.partial(measures.sparse_forms, settings=half(ratios=(0.5, 0.7, 0.9)))),
        measured("cnn", "float32", 256),
        Stage("parity_default", "Parity, products as the platform makes them",
              functools.partial(measures.parity, precision="default")),
        Stage("words", "Words rendered", training.words, share=0.15),
        Stage("pretrain", "Pretraining: the compact recipe", training.pretrain_compact, share=0.4),
        Stage("recognise", "Recogniser", training.recognise, share=0.9),
    ]  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Runs the day, or one stage of it; returns the exit code."""
    del argv
    out, small = Path(str(OUT.value)).resolve(), SIZE.value == "test"
    day = Day(
        out,
        small,
        SECONDS.value,
        plan_with,
        {
            "smoke": lambda: mini.get_config("test"),
            "pretrain": compact.get_config,
            "recognise": lambda: recogniser.get_config("test" if small else None),
        },
        Path(GOLDEN_DIR.value),
        WORDS.value,
        BENCHMARKS.value,
    )
    planned = stages()
    if ONE.value:
        (stage,) = (stage for stage in planned if stage.name == ONE.value)
        try:
            return 1 if run_here(day, stage).error else 0
        except Unfinished:
            return EXIT_PREEMPTED

    def apart(stage: Stage, seconds: float) -> list[str]:
        return [sys.executable, *sys.argv, f"--one={stage.name}", f"--seconds={seconds:.0f}"]

    head = (
        f"# A day on an accelerator\n\n`bash launch/accelerator_day.sh`, SIZE={SIZE.value}, code "
        f"{code_version()}, begun {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}."
    )
    with command_line.one_line_errors():
        return run_day(
            day,
            planned,
            minutes=1e4 if small else MINUTES.value,
            limit=LIMIT.value,
            again=STAGES.value,
            apart=None if small else apart,
            write_page=lambda day: write_page(day, planned, head),
        )


if __name__ == "__main__":
    command_line.command(main)()
