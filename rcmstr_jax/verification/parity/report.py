"""Runs the checks over a folder of golden files and prints a row per quantity."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rcmstr_jax.interop.files import WeightFileError
from rcmstr_jax.verification.parity import contrastive, decoders, encoder, sparse, tps, vit
from rcmstr_jax.verification.parity.fixture import Fixture, MissingQuantity, Row

CHECKS: dict[str, Callable[[Fixture], None]] = {
    module.FILE: module.check for module in (encoder, tps, contrastive, sparse, vit, decoders)
}


def check_file(path: Path, check: Callable[[Fixture], None]) -> list[Row]:
    """Rows of one golden file.

    Whatever a file provokes (a missing array, weights that do not fit, shapes that contradict each
    other) becomes a failed row, so that the other files are still checked.
    """
    try:
        fixture = Fixture(path)
    except WeightFileError as error:
        return [Row(path.name, "(file)", math.inf, 0.0, str(error))]
    try:
        check(fixture)
    except MissingQuantity as error:
        fixture.fail(str(error.args[0]), "missing in the file")
    except Exception as error:  # the file decides what happens here, and its name is in the row
        place = traceback.extract_tb(error.__traceback__)[-1]
        note = f"{type(error).__name__} in {Path(place.filename).name}: {error}"
        fixture.fail("(check stopped)", " ".join(note.split()))
    return fixture.finish()


def check_folder(folder: Path, only: Sequence[str] = ()) -> Iterable[list[Row]]:
    """Rows of every golden file, file by file.

    Args:
      folder: holds the files of `CHECKS`; an absent one fails, one of another name fails too.
      only: file names to check; empty for all.

    Raises:
      ValueError: if the folder is absent or `only` names no golden file.
    """
    if not folder.is_dir():
        raise ValueError(f"--golden={folder} is no folder: give the one with {', '.join(CHECKS)}")
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise ValueError(f"--only={','.join(unknown)}: known are {', '.join(CHECKS)}")
    for name, check in CHECKS.items():
        if only and name not in only:
            continue
        if (folder / name).is_file():
            yield check_file(folder / name, check)
        else:
            yield [Row(name, "(file)", math.inf, 0.0, f"missing in {folder}")]
    for path in [] if only else sorted(folder.glob("*.npz")):
        if path.name not in CHECKS:
            yield [Row(path.name, "(file)", math.inf, 0.0, "no check reads this file")]


def table(rows: Sequence[Row]) -> str:
    """One line per row: file, name, largest relative error, tolerance, verdict."""
    if not rows:
        return ""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        line = f"{row.file:<27} {row.name:<{width}} {row.error:9.2e} {row.tolerance:9.2e}"
        lines.append(f"{line}  {row.verdict}{'  ' + row.note if row.note else ''}")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """One line per file with the number of each verdict and the worst passing error."""
    lines = []
    for name in dict.fromkeys(row.file for row in rows):
        own = [row for row in rows if row.file == name]
        count = {v: sum(row.verdict == v for row in own) for v in ("PASS", "STALE", "FAIL")}
        worst = max((row.error for row in own if row.verdict == "PASS"), default=math.nan)
        counts = ", ".join(f"{n} {v}" for v, n in count.items() if n)
        lines.append(f"{name:<27} {counts}; largest error that passed {worst:.1e}")
    if any(row.verdict == "STALE" for row in rows):
        lines.append(
            "STALE: the file holds the figure from before the step, exactly, so that there is "
            "nothing to compare with; see docs/fidelity.md"
        )
    return "\n".join(lines)
