"""Flags of the launchers: a mistake becomes one line that names the remedy, and exit code 2."""

from __future__ import annotations

import contextlib
import errno
import re
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from rcmstr_jax.data.records import DataLost
from rcmstr_jax.runtime.checkpoint import CheckpointError, CheckpointMismatch
from rcmstr_jax.runtime.config_files import flatten
from rcmstr_jax.runtime.errors import ConfigError, closest
from rcmstr_jax.runtime.interrupts import EXIT_CONFIG, EXIT_FAILED

# Full, over quota, larger than a file may be, or read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _load(spec: str) -> Any:
    """Runs `get_config` of `FILE.py` or `FILE.py:variant`."""
    path, _, variant = spec.partition(":")
    if not Path(path).is_file():
        folder = Path(path).parent
        files = sorted(str(p) for p in folder.glob("*.py") if p.stem not in ("__init__", "common"))
        hint = f": did you mean {closest(path, files)}?" if files else ""
        raise ConfigError(f"--config={spec}: there is no file {path}{hint}")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise ConfigError(f"--config={spec}: {path} defines no get_config()")
    try:
        return get_config(variant) if variant else get_config()
    except ValueError as error:
        raise ConfigError(f"--config={spec}: {error}") from error


def check_overrides(argv: Sequence[str], name: str = "config") -> dict[str, Any]:
    """Checks that `--config` can be loaded and has every field that is overridden.

    `ml_collections` would answer with a traceback.

    Returns:
      Fields and their defaults; empty without `--config`.

    Raises:
      ConfigError: naming the closest field.
    """
    spec: str | None = None
    overrides: list[str] = []
    for place, argument in enumerate(argv):
        given = re.fullmatch(rf"--?{name}(?:=(.*))?", argument, re.DOTALL)
        if given:
            spec = given[1] if given[1] is not None else " ".join(argv[place + 1 : place + 2])
        overridden = re.match(rf"--?(?:no)?{name}\.([^=]+)", argument)
        if overridden:
            overrides.append(overridden[1])
    if spec is None:
        return {}
    fields = dict(flatten(_load(spec)))
    for override in overrides:
        if override in fields:
            continue
        inside = [field for field in fields if field.startswith(f"{override}.")]
        if inside:
            switches = [field for field in inside if field.endswith(".enabled")]
            raise ConfigError(
                f"--{name}.{override} is a group of fields: set one of them, "
                f"for example --{name}.{(switches or inside)[0]}"
            )
        raise ConfigError(
            f"--{name}.{override}: there is no such field: did you mean "
            f"--{name}.{closest(override, fields)}?"
        )
    return fields


@contextlib.contextmanager
def one_line_errors(*others: type[Exception]) -> Iterator[None]:
    """Ends the process with one line on expected errors: code 2 for the user's mistakes, else 1.

    Args:
      *others: further exceptions that end a run without being a mistake in its config.
    """
    try:
        yield
    except (ConfigError, CheckpointMismatch, flags.Error) as error:
        _fail(error, EXIT_CONFIG)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _fail(
            f"{error.filename or 'the disk of the workdir'} cannot be written: {error.strerror}. "
            "Make room or make it writable, then run the same command again; it continues from "
            "the newest checkpoint",
            EXIT_FAILED,
        )
    except Exception as error:
        if not isinstance(error, (CheckpointError, DataLost, *others)):
            raise
        _fail(error, EXIT_FAILED)


def _fail(error: Exception | str, code: int) -> None:
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    sys.exit(code)


def _illegal_value(said: str, fields: Mapping[str, Any]) -> str:
    """What absl says about a flag's value, with the remedy."""
    found = re.match(r"flag --(?P<name>[\w.]+)=(?P<value>.*?): ", said, re.DOTALL)
    if not found:
        return said
    name, value = found["name"], found["value"]
    field = name.removeprefix("config.")
    if value == "None":
        return f"--{name} is missing: give --{name}=... ({flags.FLAGS[name].help})"
    if field != name and field in fields:
        return f"--{name}={value} cannot be read: give a value like {fields[field]!r}"
    return said


def parse_flags(argv: Sequence[str]) -> list[str]:
    """For `app.run(main, flags_parser=parse_flags)`: absl's parsing with the checks above."""
    with one_line_errors():
        fields = check_overrides(argv)
        try:
            rest = flags.FLAGS(tuple(argv))
        except flags.IllegalFlagValueError as error:
            raise ConfigError(_illegal_value(str(error), fields)) from error
        except flags.UnrecognizedFlagError as error:
            known = [*flags.FLAGS, *(f"config.{field}" for field in fields)]
            raise ConfigError(
                f"--{error.flagname}: there is no such flag: did you mean "
                f"--{closest(error.flagname, known)}?"
            ) from error
        if len(rest) > 1:
            raise ConfigError(f"{rest[1]!r} is no flag: write --config.field=value")
        return rest
    raise AssertionError("unreachable")
