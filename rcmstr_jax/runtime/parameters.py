"""A table of a network's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rcmstr_jax.runtime.digest import leaf_name

_COLUMNS = ("name", "type", "shape", "numbers", "mean", "deviation")


def parameter_table(params: Mapping[str, Any]) -> str:
    """One line per array, in order of the names, and their total.

    Args:
      params: pytree of arrays on the host, or of one device.

    Returns:
      Lines without a final newline; mean and deviation are those of the values.
    """
    rows, total = [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf)
        total += values.size
        wide = values.astype(np.float64)
        mean, deviation = (wide.mean(), wide.std()) if values.size else (0.0, 0.0)
        rows.append(
            (leaf_name(path), values.dtype.name, str(values.shape), f"{values.size:,}",
             f"{mean:.3g}", f"{deviation:.3g}")
        )  # fmt: skip
    rows = [_COLUMNS, *sorted(rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, f"total: {total:,}"])
