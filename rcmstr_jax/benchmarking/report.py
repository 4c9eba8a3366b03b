"""Rows of measurements: as a table, as JSON lines, and against those of an earlier run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# The keys of every row, in this order; further ones follow.
KEYS = (
    "what",
    "case",
    "seconds",
    "spread",
    "words_per_second",
    "peak_bytes",
    "share_of_ceiling",
)
# What must agree for two rows to be of the same measurement.
IDENTITY = (
    "what", "case", "model", "width", "batch", "queue", "precision", "rectifier", "platform"
)  # fmt: skip
_COLUMNS = ("seconds", "spread", "cpu s", "words/s", "peak MB", "extra MB", "GFLOP", "share")


def table(rows: Sequence[Row]) -> str:
    """Columns for people; an empty cell was not measured."""
    if not rows:
        return ""
    width = max(len(row["case"]) for row in rows)
    lines = [f"{rows[0]['what']:<{width}}" + "".join(f"{name:>10}" for name in _COLUMNS)]
    for row in rows:
        operations = row["matrix_operations"]
        cells = (
            f"{row['seconds']:.4g}",
            f"{row['spread']:.2g}",
            f"{row['cpu_seconds']:.4g}",
            _cell(row["words_per_second"], 1, "{:.0f}"),
            _cell(row["peak_bytes"], 1e-6, "{:.0f}"),
            _cell(row["extra_bytes"], 1e-6, "{:.0f}"),
            _cell(operations, 1e-9, "{:.1f}"),
            _cell(row["share_of_ceiling"], 100, "{:.0f} %"),
        )
        lines.append(f"{row['case']:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _cell(value: float | None, factor: float, form: str) -> str:
    return "" if value is None else form.format(value * factor)


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Rows of a file of JSON lines.

    Raises:
      ValueError: no such file, or a line that is no row; naming it.
    """
    if not path.is_file():
        raise ValueError(f"--baseline={path}: there is no such file; write one with --out={path}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            missing = [key for key in (*KEYS, *IDENTITY) if key not in row]
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"--baseline={path}: line {number} is no JSON object") from error
        if missing:
            raise ValueError(f"--baseline={path}: line {number} lacks {', '.join(missing)}")
        rows.append(row)
    return rows


def compare(rows: Sequence[Row], baseline: Sequence[Row]) -> str:
    """One line per row: time and memory beside the baseline's, and what to call the change.

    "faster" and "slower" are said only of changes beyond the spread of both, and of memory that
    moved by more than a twentieth. Of several equal rows in the baseline the last one counts.
    """
    earlier = {_identity(row): row for row in baseline}
    lines = []
    for row in rows:
        before = earlier.pop(_identity(row), None)
        name = f"{row['what']} {row['case']}"
        if before is None:
            lines.append(f"{name}: not in the baseline at these settings")
            continue
        change = f"{before['seconds']:.4g} s -> {row['seconds']:.4g} s"
        verdicts = [_time_verdict(before, row), _memory_verdict(before, row)]
        said = ", ".join(verdict for verdict in verdicts if verdict) or "unchanged"
        lines.append(f"{name}: {change}, {said}")
    measured = {row["what"] for row in rows}
    lines += [
        f"{row['what']} {row['case']}: in the baseline alone"
        for row in earlier.values()
        if row["what"] in measured
    ]
    return "\n".join(lines)


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in IDENTITY)


def _time_verdict(before: Row, after: Row) -> str:
    if abs(after["seconds"] - before["seconds"]) <= max(before["spread"], after["spread"]):
        return ""
    if after["seconds"] < before["seconds"]:
        return f"{before['seconds'] / after['seconds']:.2f} times as fast"
    return f"{after['seconds'] / before['seconds']:.2f} times as slow"


def _memory_verdict(before: Row, after: Row) -> str:
    if not before["peak_bytes"] or not after["peak_bytes"]:
        return ""
    ratio = after["peak_bytes"] / before["peak_bytes"]
    return "" if abs(ratio - 1) <= 0.05 else f"{ratio:.2f} times the memory"
