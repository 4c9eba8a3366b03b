"""Processes of tests, made by one that has imported the package: starting one takes no time."""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import rcmstr_jax

# Launchers define their flags on import, and each runs as a script.
_NOT_IMPORTED = ("rcmstr_jax.launch", "rcmstr_jax.configs")


class Done(NamedTuple):
    """How a process ended, and what it wrote."""

    returncode: int | None
    stdout: str
    stderr: str


def _modules() -> list[str]:
    """Every module of the package that may be imported ahead."""
    found = (module.name for module in pkgutil.walk_packages(rcmstr_jax.__path__, "rcmstr_jax."))
    return [name for name in found if not name.startswith(_NOT_IMPORTED)]


def _begin(folder: Path, cwd: Path, environment: Mapping[str, str]) -> None:
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.chdir(cwd)
    os.environ.update(environment)
    for name, value in environment.items():
        if name == "JAX_ENABLE_X64":  # JAX is imported: it does not look there again
            jax.config.update("jax_enable_x64", value == "1")
        elif name.startswith("JAX_"):
            raise ValueError(f"environment {name}={value}: not read again once JAX is imported")


def _run_script(script: Path, arguments: tuple[str, ...], *settings: Any) -> None:
    _begin(*settings)
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


def _call(function: Callable[..., object], arguments: tuple[Any, ...], *settings: Any) -> None:
    _begin(*settings)
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _finish(target: Callable[..., None], *arguments: Any, folder: Path) -> Done:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_modules())
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join()
    return Done(process.exitcode, *((folder / name).read_text() for name in ("out", "err")))


class Processes:
    """Starts processes that write what they say below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def script(
        self,
        script: str | Path,
        *arguments: str | Path,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """Runs a script as `python SCRIPT ARGUMENTS...` does, and waits for its end."""
        said = tuple(map(str, arguments))
        settings = (self._folder, cwd or self._folder, dict(environment or {}))
        return _finish(_run_script, Path(script), said, *settings, folder=self._folder)

    def call(self, function: Callable[..., object], *arguments: Any) -> Done:
        """Calls a function of a module; returncode 1 if it raises."""
        settings = (self._folder, self._folder, {})
        return _finish(_call, function, arguments, *settings, folder=self._folder)
