"""Flags that are the fields of a dataclass, with the `help` of their metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from rcmstr_jax.runtime.errors import ConfigError

flags.disclaim_key_flags()  # --help lists them with those of the launcher that defines them
_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple: flags.DEFINE_list,
}


def define(options: type, otherwise: str = "") -> None:
    """Defines a flag for every field; `otherwise` says what else may decide its default."""
    for field in dataclasses.fields(options):
        text = f"{field.metadata['help']} (default: {field.default!r}{otherwise})"
        _DEFINE[type(field.default)](field.name, None, text)


def given(options: type) -> dict[str, Any]:
    """The fields that the command line names, with their values.

    Raises:
      ConfigError: an item of a list is no number where the default's are.
    """
    found = {}
    for field in dataclasses.fields(options):
        value = flags.FLAGS[field.name].value
        if isinstance(value, list):
            default: Any = field.default
            kind = type(default[0]) if default else str
            try:
                value = tuple(map(kind, value))
            except ValueError as error:
                raise ConfigError(f"--{field.name}={','.join(value)}: {error}") from error
        if value is not None:
            found[field.name] = value
    return found
