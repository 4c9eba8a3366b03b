"""Rows of measurements: as a table, as JSON lines, and against those of an earlier run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rcmstr_jax.metrics.tables import text_table

Row = dict[str, Any]
# The keys of every row, in this order; further ones follow.
KEYS = ("what", "case", "seconds", "spread", "words_per_second", "peak_bytes", "share_of_ceiling")
# Of the settings, what a row says.
SETTINGS = ("model", "width", "batch", "queue", "precision", "rectifier")
# What must agree for two rows to be of the same measurement.
IDENTITY = ("what", "case", *SETTINGS, "platform")
# Column -> key of the row, factor and form.
_COLUMNS = {
    "seconds": ("seconds", 1, "{:.4g}"),
    "spread": ("spread", 1, "{:.2g}"),
    "cpu s": ("cpu_seconds", 1, "{:.4g}"),
    "words/s": ("words_per_second", 1, "{:.0f}"),
    "peak MB": ("peak_bytes", 1e-6, "{:.0f}"),
    "extra MB": ("extra_bytes", 1e-6, "{:.0f}"),
    "predicted MB": ("predicted_bytes", 1e-6, "{:.0f}"),
    "GFLOP": ("matrix_operations", 1e-9, "{:.1f}"),
    "share": ("share_of_ceiling", 100, "{:.0f} %"),
}


def table(rows: Sequence[Row]) -> str:
    """Columns for people; an empty cell was not measured."""
    cells = [
        [
            "" if row.get(key) is None else form.format(row[key] * factor)
            for key, factor, form in _COLUMNS.values()
        ]
        for row in rows
    ]
    names = [row["case"] for row in rows]
    head = [rows[0]["what"], *_COLUMNS]
    return text_table([head, *([name, *row] for name, row in zip(names, cells, strict=True))])


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

    "fast" and "slow" are said only of changes beyond the spread of both, and of memory that moved
    by more than a twentieth. Of several equal rows in the baseline the last one counts.
    """

    def identity(row: Row) -> tuple[Any, ...]:
        return tuple(row[key] for key in IDENTITY)

    earlier = {identity(row): row for row in baseline}
    lines = []
    for row in rows:
        before = earlier.pop(identity(row), None)
        said = "not in the baseline at these settings"
        if before is not None:
            change = f"{before['seconds']:.4g} s -> {row['seconds']:.4g} s"
            said = f"{change}, {', '.join(_verdicts(before, row)) or 'unchanged'}"
        lines.append(f"{row['what']} {row['case']}: {said}")
    measured = {row["what"] for row in rows}
    lines += [
        f"{row['what']} {row['case']}: in the baseline alone"
        for row in earlier.values()
        if row["what"] in measured
    ]
    return "\n".join(lines)


def _verdicts(before: Row, after: Row) -> Iterator[str]:
    ratio = after["seconds"] / before["seconds"]
    if abs(after["seconds"] - before["seconds"]) > max(before["spread"], after["spread"]):
        yield f"{ratio:.2f} times as slow" if ratio > 1 else f"{1 / ratio:.2f} times as fast"
    if before["peak_bytes"] and after["peak_bytes"]:
        ratio = after["peak_bytes"] / before["peak_bytes"]
        if abs(ratio - 1) > 0.05:
            yield f"{ratio:.2f} times the memory"
