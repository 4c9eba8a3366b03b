r"""Trains a recogniser on a pretrained encoder and scores it on every benchmark below a folder.

  python launch/evaluate.py --config=configs/evaluate/frozen_ctc.py --workdir=runs/ctc \
      --pretrained=runs/cnn [--config.field=value ...]

``--pretrained=random:runs/cnn`` evaluates the encoder that this pretraining run started from,
``--pretrained=random`` the config's own model, untrained.
"""

from __future__ import annotations

import logging as python_logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # configs/ is not installed

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Evaluation config, configs/evaluate/FILE.py[:variant].", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for results.json and results.md.")
_PRETRAINED = flags.DEFINE_string(
    "pretrained", None, "Workdir of a pretraining run, random:WORKDIR, or random."
)


def main(argv: list[str]) -> None:
    """Runs one evaluation; mistakes in what was asked for end in one line and exit code 2."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: fields are --config.field=value")
    from rcmstr_jax.evaluation.protocols import run_evaluation
    from rcmstr_jax.training.config_check import ConfigError

    python_logging.getLogger("absl").setLevel(python_logging.WARNING)
    try:
        run_evaluation(_CONFIG.value, str(_WORKDIR.value), str(_PRETRAINED.value))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir", "pretrained"])
    app.run(main)
