r"""Puts four evaluations beside each other: frozen and fine-tuned, random and pretrained.

  python launch/compare.py --runs=out --out=out/results.json

``--runs`` holds the workdirs ``frozen_random_init``, ``frozen_pretrained``,
``finetuned_random_init`` and ``finetuned_pretrained`` of launch/evaluate.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import app, flags

from rcmstr_jax.evaluation.report import compare_runs, comparison_table

_RUNS = flags.DEFINE_string("runs", None, "Folder that holds the four workdirs.", required=True)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.", required=True)


def main(argv: list[str]) -> None:
    """Prints the table and writes the JSON."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: name the folder with --runs")
    try:
        table = compare_runs(_RUNS.value)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    out = Path(_OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(comparison_table(table))


if __name__ == "__main__":
    app.run(main)
