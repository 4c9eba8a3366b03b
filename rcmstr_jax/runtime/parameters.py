"""The table of a network's parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from rcmstr_jax.runtime.digest import named_arrays


def parameter_table(params: Any) -> str:
    """Name, shape and size of every array, and their sum; one line each."""
    arrays = named_arrays(params)
    rows = [(name, str(np.shape(a)), f"{a.size:,}", str(a.dtype)) for name, a in arrays.items()]
    rows = [("parameter", "shape", "size", "type"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{n:<{widths[0]}}  {s:<{widths[1]}}  {z:>{widths[2]}}  {d}".rstrip() for n, s, z, d in rows
    ]
    return "\n".join([*lines, f"total {sum(a.size for a in arrays.values()):,}"])
