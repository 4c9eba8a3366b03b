r"""Compares our numbers with those of the published code.

  python launch/check_parity.py [--golden=DIR] [--only=FILE,...]

Prints a row per quantity: file, name, largest error relative to the array's scale, tolerance,
verdict. Computes in float64 where the figures are float64; with JAX_ENABLE_X64=0 everything is
float32, with the tolerances of rcmstr_jax/verification/parity/fixture.py. One to two
minutes on two CPU cores.

Exit codes: 0 nothing failed; 1 a quantity differs or is missing, or no check reads an array;
2 a mistake in the flags.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Both before JAX is imported. One CPU device gives the same numbers everywhere.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from absl import flags

from rcmstr_jax.runtime import command_line
from rcmstr_jax.verification.parity.report import check_folder, summary, table

GOLDEN = flags.DEFINE_string(
    "golden", str(REPOSITORY.parent / "shared" / "golden"), "Folder with the golden .npz files."
)
ONLY = flags.DEFINE_list("only", [], "File names to check; empty for all.")


def main(argv: Sequence[str]) -> int:
    """Prints the table; returns the exit code."""
    del argv
    # Accelerators would multiply float32 in bfloat16 or TF32.
    jax.config.update("jax_default_matmul_precision", "highest")
    rows = []
    with command_line.one_line_errors(mistakes=(ValueError,)):
        for of_file in check_folder(Path(GOLDEN.value), ONLY.value):
            rows += of_file
            print(table(of_file), flush=True)
    failed = sum(row.verdict == "FAIL" for row in rows)
    print(f"\n{summary(rows)}\n{len(rows)} quantities, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    command_line.command(main)()
