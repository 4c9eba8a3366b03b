r"""Puts evaluations beside each other.

Four of them, frozen and fine-tuned, random and pretrained, each a workdir of launch/evaluate.py
below DIR (`frozen_random_init`, `frozen_pretrained`, `finetuned_random_init`,
`finetuned_pretrained`):

  python launch/compare.py --runs=DIR --out=DIR/results.json

Two of them, word by word: a paired bootstrap over the words that both have read:

  python launch/compare.py --first=WORKDIR --second=WORKDIR [--policy=POLICY] [--out=FILE.json]

Losses of two trainings, bfloat16 and float32 for example: the largest relative difference of each
loss over the steps that both have logged. Exit code 1 if one of them exceeds --within:

  python launch/compare.py --what=losses --first=WORKDIR --second=WORKDIR [--within=0.02]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from rcmstr_jax.evaluation.analysis import read_predictions
from rcmstr_jax.evaluation.comparison import compare_runs, comparison_table, paired_rows
from rcmstr_jax.metrics.intervals import compare_predictions
from rcmstr_jax.metrics.tables import text_table
from rcmstr_jax.metrics.words import POLICIES
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.curves import relative_differences
from rcmstr_jax.runtime.files import write_json
from rcmstr_jax.runtime.writers import METRICS

WHAT = flags.DEFINE_enum("what", "words", ["words", "losses"], "What the runs are compared by.")
RUNS = flags.DEFINE_string("runs", None, "Folder that holds the four workdirs.")
FIRST = flags.DEFINE_string("first", None, "Workdir, or the predictions.jsonl of an evaluation.")
SECOND = flags.DEFINE_string("second", None, "Another, of the same words.")
POLICY = flags.DEFINE_string("policy", "alphanumeric", f"One of {', '.join(POLICIES)}.")
OUT = flags.DEFINE_string("out", None, "JSON file to write.")
WITHIN = flags.DEFINE_float("within", 0.02, "Losses: largest relative difference.", 0.0)


def compare() -> tuple[dict[str, Any], str]:
    """The comparison that the flags ask for, as JSON and as a table.

    Raises:
      ValueError: not exactly one of the two kinds is asked for, or the runs do not fit.
    """
    if RUNS.value and not (FIRST.value or SECOND.value):
        table = compare_runs(RUNS.value)
        return table, comparison_table(table)
    if RUNS.value or not (FIRST.value and SECOND.value):
        raise ValueError("give --runs=DIR, or --first=WORKDIR and --second=WORKDIR")
    first, second = read_predictions(FIRST.value), read_predictions(SECOND.value)
    comparison = compare_predictions(first, second, policy=POLICY.value)
    note = (
        f"first: {FIRST.value}; second: {SECOND.value}; policy {POLICY.value}:"
        f" {POLICIES[POLICY.value]}."
    )
    return comparison, f"{text_table(paired_rows(comparison))}\n{note}"


def compare_losses() -> int:
    """Prints the differences; returns the exit code.

    Raises:
      ValueError: a run is not given, or they share no step.
      OSError: one has no metrics.
    """
    if not (FIRST.value and SECOND.value):
        raise ValueError("give --first=WORKDIR and --second=WORKDIR")
    found = relative_differences(Path(FIRST.value) / METRICS, Path(SECOND.value) / METRICS)
    for name, (steps, apart) in found.items():
        print(
            f"{name}: at most {apart.max():.2%} (step {steps[apart.argmax()]}), mean "
            f"{apart.mean():.2%}, {(apart <= WITHIN.value).mean():.0%} of {len(steps)} steps "
            f"within {WITHIN.value:.0%}"
        )
    return 0 if all(apart.max() <= WITHIN.value for _, apart in found.values()) else 1


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON; returns the exit code."""
    del argv
    with command_line.one_line_errors(mistakes=(FileNotFoundError, ValueError)):
        if WHAT.value == "losses":
            return compare_losses()
        table, text = compare()
    if OUT.value:
        out = Path(OUT.value)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, table)
    print(text)
    return 0


if __name__ == "__main__":
    command_line.command(main)()
