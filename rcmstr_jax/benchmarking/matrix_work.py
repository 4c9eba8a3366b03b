"""Operations of matrix products and convolutions, and the bytes that they read and write."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class MatrixWork(NamedTuple):
    """What matrix products and convolutions do.

    Attributes:
      operations: multiplications and additions; a product of (n, k) and (k, m) has 2nkm.
      read: bytes of their operands.
      written: bytes of their results.
    """

    operations: float
    read: float
    written: float


def matrix_operations(function: Callable[..., Any], *args: Any) -> float:
    """Operations of the matrix products and convolutions of a function, scans multiplied out."""
    return matrix_work(function, *args).operations


def matrix_work(function: Callable[..., Any], *args: Any) -> MatrixWork:
    """Counts the matrix products and convolutions of a function, scans multiplied out.

    XLA counts the body of a loop once and leaves out library calls; this counts what is asked for.
    Of a conditional the most expensive branch counts, of a `while` of unknown length one turn.
    """
    return MatrixWork(*_count(jax.make_jaxpr(function)(*args).jaxpr))


def _count(jaxpr: Any) -> np.ndarray:
    return sum((_count_equation(equation) for equation in jaxpr.eqns), np.zeros(3))


def _count_equation(equation: Any) -> np.ndarray:
    name, params = equation.primitive.name, equation.params
    if name in ("dot_general", "conv_general_dilated"):
        read = sum(var.aval.size * var.aval.dtype.itemsize for var in equation.invars)
        result = equation.outvars[0].aval
        return np.array([_operations(equation), read, result.size * result.dtype.itemsize])
    inner_jaxprs = [
        getattr(value, "jaxpr", value)
        for param in params.values()
        for value in (param if isinstance(param, tuple | list) else (param,))
        if hasattr(getattr(value, "jaxpr", value), "eqns")
    ]
    counts = [_count(inner) for inner in inner_jaxprs]
    if not counts:
        return np.zeros(3)
    if name == "cond":
        return max(counts, key=lambda work: work[0])
    turns = {"scan": "length", "pallas_call": "grid_mapping"}.get(name)
    times = params[turns] if turns else 1
    return np.sum(counts, axis=0) * math.prod(getattr(times, "grid", (times,)))


def _operations(equation: Any) -> float:
    params, result = equation.params, equation.outvars[0].aval
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * result.size * math.prod(shape[axis] for axis in contracted)
    kernel = equation.invars[1].aval
    features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * result.size * kernel.size / features / params["batch_group_count"]
