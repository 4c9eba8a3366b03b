"""Compiled programs, kept between runs because compilation takes up to minutes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jax

from rcmstr_jax.runtime.errors import ConfigError

logger = logging.getLogger(__name__)
# `compiler_options` of a program that runs once or a few times: on CPU, LLVM's optimisations take
# most of the compilation.
QUICKLY = {"xla_backend_optimization_level": 0}


def enable_compilation_cache(setting: str) -> Path | None:
    """Keeps compiled programs between runs.

    Args:
      setting: "auto" for JAX's own setting where there is one ($JAX_COMPILATION_CACHE_DIR), else
        $XDG_CACHE_HOME/rcmstr_jax or ~/.cache/rcmstr_jax; "off" for JAX's own alone; or a folder.

    Returns:
      The folder, or None if JAX's own setting stays as it is.
    """
    if setting == "off" or setting == "auto" and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    folder = Path(setting)
    if setting == "auto":
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "rcmstr_jax" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if setting != "auto":
            raise ConfigError(
                f"config.compilation_cache={setting!r} cannot be created ({error}): "
                "give another folder, or 'off'"
            ) from error
        logger.warning("no compilation cache: %s", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder
