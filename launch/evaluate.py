r"""Trains a recogniser on a pretrained encoder and scores it on every benchmark below a folder.

Or, with the configs segmentation and super_resolution, a network whose answers are pictures.

  python launch/evaluate.py --config=NAME[:variant] --workdir=DIR --pretrained=DIR2 \
    [--config.field=value ...] [--watch]

NAME is one of configs/evaluate/ (frozen_ctc, score, ...), or the path of a file of your own.

DIR2 is the workdir of a pretraining run. `--pretrained=random:DIR2` takes the encoder that this run
started from, `--pretrained=random` the config's own model, untrained. It may also be a recogniser:
the name of packaged weights (`compact`), a folder of weights, or the workdir of an evaluation. With
configs/evaluate/score.py it is scored; --workdir is then by default DIR2/scores/NAME, after the
folder of the benchmarks, or scores/compact/NAME.

`--watch` evaluates every new checkpoint of the pretraining run in DIR2 until that has finished, and
writes the scores beside its curves, into DIR2/watch (or --workdir).

Exit codes: 0 finished; 1 failed; 2 a mistake in the flags, the config or the data, found before any
long work; 75 stopped on request, the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from rcmstr_jax.dense.protocols import run_all_dense
from rcmstr_jax.evaluation.runs import run_all
from rcmstr_jax.evaluation.watch import watch
from rcmstr_jax.launch import distributed_flags
from rcmstr_jax.recognition.fitting import Stopped
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import EXIT_PREEMPTED, ConfigError
from rcmstr_jax.runtime.processor import prepare_processor
from rcmstr_jax.runtime.watchdog import leave_at_once_on_failure
from rcmstr_jax.training.plan import evaluation_plan

CONFIG = config_flags.DEFINE_config_file("config", None, "NAME or FILE.py, either with :variant.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the recogniser and its results.")
PRETRAINED = flags.DEFINE_string(
    "pretrained", None, "Workdir of a run, folder or name of weights, or random."
)
WATCH = flags.DEFINE_bool("watch", False, "Evaluate each new checkpoint of a running pretraining.")
WATCH_EVERY = flags.DEFINE_float("watch_every", 20.0, "Seconds between two looks for checkpoints.")
flags.mark_flags_as_required(["config", "pretrained"])
flags.adopt_module_key_flags(distributed_flags)


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    del argv
    workdir, pretrained = WORKDIR.value, str(PRETRAINED.value)
    with leave_at_once_on_failure(), command_line.one_line_errors():
        prepare_processor(CONFIG.value.model.dtype)
        watched = distributed_flags.join()
        try:
            dense = "task" in CONFIG.value
            if WATCH.value and dense:
                raise ConfigError(
                    f"--watch with config.task={CONFIG.value.task}: it takes a config of text"
                    " recognition, as configs/evaluate/linear_probe.py"
                )
            if WATCH.value and watched["wandb"]:
                raise ConfigError(
                    f"--wandb={watched['wandb']} is for a training, --watch writes into DIR/watch:"
                    " leave one of them out"
                )
            if WATCH.value:
                plan = evaluation_plan(CONFIG.value)
                watch(plan, pretrained, workdir, every=WATCH_EVERY.value)
            else:
                evaluate = run_all_dense if dense else run_all
                evaluate(CONFIG.value, workdir, pretrained, **watched)
        except Stopped as stopped:
            print(stopped, file=sys.stderr, flush=True)
            return EXIT_PREEMPTED
    return 0


run = command_line.command(main)  # rcmstr-evaluate

if __name__ == "__main__":
    run()
