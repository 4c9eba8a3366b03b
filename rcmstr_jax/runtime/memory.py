"""Memory of the host that Python has freed and the process still holds."""

from __future__ import annotations

import ctypes
import gc


def return_freed_memory() -> None:
    """Gives freed memory back to the system, where the C library is one that can (glibc).

    Initialising a network leaves arrays behind that are larger than what training holds, and the
    compiler leaves as much again; without this the process keeps their place, and on CPU the step's
    own arrays come on top.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
