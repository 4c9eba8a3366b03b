r"""Pretrains RCMSTR.

  python launch/pretrain.py --config=configs/pretrain/FILE.py[:variant] --workdir=DIR \
    [--config.field=value ...]

The same command on the same workdir continues after its newest checkpoint.

Exit codes: 0 finished; 1 failed; 2 a mistake in the flags, the config or the data, found before any
long work; 75 stopped by SIGINT (Ctrl-C) or SIGTERM after saving: run the same command again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

# Config files import one another, and are not installed: they are found beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rcmstr_jax.training.command_line import one_line_errors, parse_flags  # noqa: E402
from rcmstr_jax.training.interrupts import EXIT_PREEMPTED  # noqa: E402
from rcmstr_jax.training.loop import TrainingDiverged, pretrain  # noqa: E402

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:variant.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; created, or continued.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    del argv
    logging.set_verbosity(logging.WARNING)  # of the libraries below; the package logs by itself
    with one_line_errors(TrainingDiverged):
        outcome = pretrain(CONFIG.value, str(WORKDIR.value))
    return 0 if outcome.finished else EXIT_PREEMPTED


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
