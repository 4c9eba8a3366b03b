"""Says where the compiler may not merge operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from rcmstr_jax.target import target_platform

P = ParamSpec("P")
R = TypeVar("R")


def compiled_apart(
    function: Callable[P, R], static_argnums: tuple[int, ...] = ()
) -> Callable[P, R]:
    """`function` as a computation of its own, into which XLA for CPU fuses nothing.

    XLA fuses cheap operations into the gather that reads their result, and repeats them for every
    row that is read: a batch norm before a 3x3 gather is then computed nine times, and so are the
    index tables, for every channel. On CPU it drops optimisation barriers before it fuses, but
    leaves calls alone that are marked as not to be inlined. Elsewhere calls must be inlined, and
    fusing into a gather costs little.
    """
    apart = jax.jit(function, static_argnums=static_argnums)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if target_platform() != "cpu":
            return function(*args, **kwargs)
        with set_xla_metadata(inlineable="false"):
            return apart(*args, **kwargs)

    return call
