"""The platform that programs are made for, where the code chooses by platform.

Some forms are faster on one platform and slower on another. Who compiles for a machine that is not
at hand says so here, and every choice follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def target_platform() -> str:
    """ "cpu", "gpu" or "tpu": what is traced now will run there; by default JAX's own backend."""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Choices by platform within the block are those of `platform`.

    What a `jax.jit` has traced before keeps the choices of then: trace new functions.
    """
    before = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(before)
