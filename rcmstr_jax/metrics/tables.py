"""Numbers as text, and rows of text as tables for a console or for Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def show(value: float | None, error: float | None = None) -> str:
    """A rate in % with one standard error: `43.21 ± 0.50`; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def bounds(interval: Sequence[float | None]) -> str:
    """An interval in %: `[40.10, 42.30]`; a dash where it is not known."""
    low, high = interval
    return "–" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns for a console; the first row is the header, the first column the names."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([lines[0], rule, *lines[1:]])
