r"""Trains a recogniser on a pretrained encoder and scores it on every benchmark below a folder.

  python launch/evaluate.py --config=configs/evaluate/FILE.py[:variant] --workdir=DIR \
    --pretrained=DIR2 [--config.field=value ...]

`--pretrained=random:DIR2` takes the encoder that the pretraining run in DIR2 started from,
`--pretrained=random` the config's own model, untrained.

Exit codes: 0 finished; 1 failed; 2 a mistake in the flags, the config or the data, found before any
long work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

# Config files import one another, and are not installed: they are found beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rcmstr_jax.evaluation.protocols import run_evaluation  # noqa: E402
from rcmstr_jax.training.command_line import one_line_errors, parse_flags  # noqa: E402

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:variant.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for results.json and results.md.")
PRETRAINED = flags.DEFINE_string("pretrained", None, "Workdir of a pretraining run, or random.")
flags.mark_flags_as_required(["config", "workdir", "pretrained"])


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    del argv
    logging.set_verbosity(logging.WARNING)  # of the libraries below
    with one_line_errors(FloatingPointError):
        run_evaluation(CONFIG.value, str(WORKDIR.value), str(PRETRAINED.value))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
