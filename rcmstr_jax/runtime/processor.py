"""What a training process on CPU must ask for before JAX's first computation."""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

import jax

logger = logging.getLogger(__name__)
# Through oneDNN convolutions of bfloat16 take the matrix unit (AMX).
MATRIX_UNIT = ("--xla_cpu_use_onednn=true", "--xla_cpu_experimental_onednn_custom_call=true")
FIRST_JAX = (0, 12)  # older ones know the flags, but do not take convolutions there
# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def prepare_processor(arithmetic: str) -> None:
    """Keeps freed memory, and turns the matrix unit on where it helps; called before JAX starts.

    Args:
      arithmetic: dtype of the model, "float32" or "bfloat16".
    """
    keep_freed_memory()
    if arithmetic == "bfloat16" and has_matrix_unit(Path("/proc/cpuinfo")):
        use_matrix_unit()


def keep_freed_memory() -> None:
    """Lets the C library (glibc) hand large arrays out again instead of asking for new pages.

    Otherwise every array above 32 MB is mapped and faulted in anew in every step: a tenth of a
    step in float32, a quarter in bfloat16 (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in (
        (_MMAP_MAX, 0),
        (_ARENA_MAX, 1),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, 2**28),
    ):
        mallopt(parameter, value)


def has_matrix_unit(cpuinfo: Path) -> bool:
    """Whether `/proc/cpuinfo` lists a matrix unit for bfloat16."""
    return cpuinfo.is_file() and " amx_bf16 " in f"{cpuinfo.read_text()} ".replace("\n", " ")


def use_matrix_unit(version: tuple[int, ...] = jax.__version_info__) -> bool:
    """Adds XLA's flags for oneDNN's convolutions to $XLA_FLAGS, unless one stands there already.

    Programs with these cannot be stored, so the cache of compiled programs is switched off.

    Args:
      version: of JAX.

    Returns:
      Whether they are on.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "onednn" in flags or version < FIRST_JAX:
        return False
    os.environ["XLA_FLAGS"] = " ".join([flags, *MATRIX_UNIT]).strip()
    jax.config.update("jax_enable_compilation_cache", False)
    logger.info("convolutions of bfloat16 take the processor's matrix unit (oneDNN)")
    return True
