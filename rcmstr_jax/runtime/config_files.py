"""Configs as plain data: flat names, JSON, and what two of them differ in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ml_collections import ConfigDict

from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import write_json

CONFIG_JSON = "config.json"
Section = TypeVar("Section")


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `("mim.mask_ratio", 0.7)` for every leaf."""
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict | dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_to_jsonable(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return json.loads(json.dumps(plain))


def config_from_jsonable(data: Mapping[str, Any]) -> ConfigDict:
    """The inverse of `config_to_jsonable`: lists become tuples again."""

    def revive(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: revive(inner) for key, inner in value.items()}
        return tuple(revive(inner) for inner in value) if isinstance(value, list) else value

    return ConfigDict(revive(data))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per field whose value differs, in order of the names; lists and tuples are alike."""
    before, after = (dict(flatten(config_from_jsonable(c))) for c in (old, new))
    return [
        f"{name} was {before.get(name)!r}, is {after.get(name)!r}"
        for name in sorted(set(before) | set(after))
        if before.get(name) != after.get(name)
    ]


def write_config(config: ConfigDict | Mapping[str, Any], workdir: Path) -> None:
    """Writes `config.json`, the resolved config, whole or not at all."""
    write_json(workdir / CONFIG_JSON, config_to_jsonable(config))


def read_config(workdir: str | Path) -> dict[str, Any]:
    """The resolved config that a run left in its workdir.

    Raises:
      ConfigError: the folder holds none.
    """
    path = Path(workdir) / CONFIG_JSON
    if not path.is_file():
        raise ConfigError(
            f"--pretrained={workdir}: {path} is missing, so this is not the workdir of a run; give "
            "the --workdir of launch/pretrain.py, or `random`"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def from_section(kind: type[Section], section: Mapping[str, Any], **given: Any) -> Section:
    """The dataclass `kind` from the fields of a section that have its names, plans within it too.

    A single string where several are allowed, as a command line gives it, is one of them.
    """
    values = {}
    for name, hint in get_type_hints(kind).items():
        if name in given:
            continue
        value = section[name]
        if dataclasses.is_dataclass(hint):
            value = from_section(hint, value)  # type: ignore[arg-type]
        elif isinstance(value, str) and hint == tuple[str, ...]:
            value = (value,)
        elif isinstance(value, ConfigDict):
            value = value.to_dict()
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values, **given)


def absent(kind: type[Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the dataclass `kind` that a section does not have, with their defaults."""
    return {f.name: f.default for f in dataclasses.fields(kind) if f.name not in section}
