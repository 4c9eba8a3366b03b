r"""Puts four evaluations beside each other: frozen and fine-tuned, random and pretrained.

  python launch/compare.py --runs=DIR --out=DIR/results.json

DIR holds the workdirs `frozen_random_init`, `frozen_pretrained`, `finetuned_random_init` and
`finetuned_pretrained` of launch/evaluate.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rcmstr_jax.evaluation.report import compare_runs, comparison_table  # noqa: E402
from rcmstr_jax.training.command_line import one_line_errors, parse_flags  # noqa: E402
from rcmstr_jax.training.config_check import ConfigError  # noqa: E402

RUNS = flags.DEFINE_string("runs", None, "Folder that holds the four workdirs.")
OUT = flags.DEFINE_string("out", None, "JSON file to write.")
flags.mark_flags_as_required(["runs", "out"])


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON; returns the exit code."""
    del argv
    with one_line_errors():
        try:
            table = compare_runs(str(RUNS.value))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    out = Path(str(OUT.value))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(comparison_table(table))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
