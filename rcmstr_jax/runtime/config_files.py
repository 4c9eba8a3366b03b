"""Configs as plain data: flat names, JSON, and what two of them differ in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `("mim.mask_ratio", 0.7)` for every leaf."""
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict | dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_to_jsonable(config: ConfigDict) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return json.loads(json.dumps(config.to_dict()))


def config_from_jsonable(data: Mapping[str, Any]) -> ConfigDict:
    """The inverse of `config_to_jsonable`: lists become tuples again."""

    def revive(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: revive(inner) for key, inner in value.items()}
        return tuple(revive(inner) for inner in value) if isinstance(value, list) else value

    return ConfigDict(revive(data))


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """One line per field whose value differs, in order of the names."""
    before, after = dict(flatten(old)), dict(flatten(new))
    return [
        f"{name} was {before.get(name)!r}, is {after.get(name)!r}"
        for name in sorted(set(before) | set(after))
        if before.get(name) != after.get(name)
    ]


def write_config(config: ConfigDict, workdir: Path) -> None:
    """Writes `config.json`, the resolved config, whole or not at all."""
    temporary = workdir / "config.json.tmp"
    temporary.write_text(json.dumps(config_to_jsonable(config), indent=2) + "\n", encoding="utf-8")
    temporary.replace(workdir / "config.json")
