"""Command lines: configs found by name, and mistakes answered by one line and exit code 2."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

from rcmstr_jax.runtime.config_files import flatten
from rcmstr_jax.runtime.errors import EXIT_CONFIG, EXIT_FAILED, ConfigError, RunFailed, closest
from rcmstr_jax.runtime.files import refuse_remote

# Full, over quota, larger than a file may be, or read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


# Where configs are that can be given by name. Looked up, not imported: they lie above this room.
PRETRAIN, EVALUATE = "rcmstr_jax.configs.pretrain", "rcmstr_jax.configs.evaluate"


def shipped_configs(room: str = EVALUATE) -> dict[str, str]:
    """Paths of the configs that are installed with the package, by name.

    Args:
      room: package of the launcher's own configs, whose is a name that both packages have.
    """
    found = {}
    for package in sorted((PRETRAIN, EVALUATE), key=room.__eq__):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            found.update({path.stem: str(path) for path in _configs_in(Path(folder))})
    return found


def _configs_in(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.py"))
    return [path for path in files if path.stem not in ("__init__", "common")]


def config_path(spec: str, room: str = EVALUATE) -> str:
    """`FILE.py` or `FILE.py:variant`, where FILE.py may be given by its name alone.

    Args:
      spec: a path (which ends with .py), or a name like `mini` or `frozen_ctc:mini`.
      room: see `shipped_configs`.

    Raises:
      ConfigError: naming the closest config.
    """
    name, colon, variant = spec.partition(":")
    if name.endswith(".py") or "/" in name:
        if Path(name).is_file():
            return spec
        files = [str(path) for path in _configs_in(Path(name).parent)]
        hint = f": did you mean {closest(name, files)}?" if files else ""
        raise ConfigError(f"--config={spec}: there is no file {name}{hint}")
    known = shipped_configs(room)
    if name not in known:
        raise ConfigError(
            f"--config={spec}: no config has this name: did you mean {closest(name, known)}? "
            "A path to one of your own ends with .py"
        )
    return f"{known[name]}{colon}{variant}"


def load_config(spec: str, room: str = EVALUATE) -> Any:
    """What `get_config` of a config gives, which is named as for `config_path`.

    Raises:
      ConfigError: no such file, or a variant that it does not know.
    """
    path, _, variant = config_path(spec, room).partition(":")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise ConfigError(f"--config={spec}: {path} defines no get_config()")
    try:
        return get_config(variant) if variant else get_config()
    except ValueError as error:
        raise ConfigError(f"--config={spec}: {error}") from error


def _given_config(argv: Sequence[str]) -> tuple[int, str, str] | None:
    """Place of the (last) `--config` in `argv`, what stands there before its value, the value."""
    found = None
    for place, argument in enumerate(argv):
        given = re.fullmatch(r"(--?config=)(.*)", argument, re.DOTALL)
        if given:
            found = place, given[1], given[2]
        elif re.fullmatch("--?config", argument) and place + 1 < len(argv):
            found = place + 1, "", argv[place + 1]
    return found


def check_overrides(
    argv: Sequence[str], renamed: Mapping[str, str] | None = None, room: str = EVALUATE
) -> dict[str, Any]:
    """Checks that `--config` can be loaded and has every field that is overridden.

    `ml_collections` would answer with a traceback.

    Args:
      argv: the command line.
      renamed: what to do instead, by names that fields had earlier.
      room: see `shipped_configs`.

    Returns:
      Fields and their defaults; empty without `--config`.

    Raises:
      ConfigError: naming the closest field.
    """
    given = _given_config(argv)
    if given is None:
        return {}
    fields = dict(flatten(load_config(given[2], room)))
    for argument in argv:
        overridden = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if not overridden or overridden[1] in fields:
            continue
        override = overridden[1]
        if override in (renamed or {}):
            raise ConfigError(f"--config.{override}: {(renamed or {})[override]}")
        inside = [field for field in fields if field.startswith(f"{override}.")]
        if inside:
            switches = [field for field in inside if field.endswith(".enabled")]
            raise ConfigError(
                f"--config.{override} is a group of fields: set one of them, "
                f"for example --config.{(switches or inside)[0]}"
            )
        raise ConfigError(
            f"--config.{override}: there is no such field: did you mean "
            f"--config.{closest(override, fields)}?"
        )
    return fields


@contextlib.contextmanager
def one_line_errors(
    *others: type[Exception], mistakes: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Ends the process with one line on expected errors: code 2 for the user's mistakes, else 1.

    Args:
      *others: further exceptions that end a run without being a mistake in its config.
      mistakes: further exceptions that are one.
    """
    answered: tuple[type[Exception], ...] = (ConfigError, flags.Error, *mistakes)
    try:
        yield
    except answered as error:
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
        if not isinstance(error, (RunFailed, *others)):
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


def parse_flags(
    argv: Sequence[str],
    *,
    positional: bool = False,
    renamed: Mapping[str, str] | None = None,
    room: str = EVALUATE,
) -> list[str]:
    """absl's parsing with the checks above; `--config` may be a name.

    Args:
      argv: the command line.
      positional: whether it may hold arguments that are no flags.
      renamed: see `check_overrides`.
      room: see `shipped_configs`.

    Returns:
      What is no flag, the program's name first.
    """
    with one_line_errors():
        fields = check_overrides(argv, renamed, room)
        argv, given = list(argv), _given_config(argv)
        if given:
            argv[given[0]] = given[1] + config_path(given[2], room)
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
        if len(rest) > 1 and not positional:
            raise ConfigError(f"{rest[1]!r} is no flag: write --config.field=value")
        refuse_remote("argument", rest[1:])
        for name in flags.FLAGS:
            value = flags.FLAGS[name].value
            several = isinstance(value, Mapping | ConfigDict)
            for field, one in flatten(value, f"{name}.") if several else ((name, value),):
                if not field.endswith("compilation_cache"):  # JAX itself reads it from buckets
                    refuse_remote(f"--{field}", one)
        return rest
    raise AssertionError("unreachable")


def command(
    main: Callable[[list[str]], Any],
    *,
    positional: bool = False,
    renamed: Mapping[str, str] | None = None,
    room: str = EVALUATE,
) -> Callable[[], None]:
    """A function that ends the process with what a launcher's `main` returns.

    Args:
      main: of `launch/FILE.py`, started as a file or as the installed command `rcmstr-...`.
      positional: as in `parse_flags`.
      renamed: as in `parse_flags`.
      room: as in `parse_flags`.
    """

    def quietly(argv: list[str]) -> Any:
        logging.set_verbosity(logging.WARNING)  # of the libraries; the package logs by itself
        return main(argv)

    def run() -> None:
        if main.__module__ != "__main__":  # absl's --help speaks of the flags of the main module
            sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
            for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
        parser = functools.partial(parse_flags, positional=positional, renamed=renamed, room=room)
        app.run(quietly, flags_parser=parser)

    return run
