"""Configs that earlier versions stored, brought up to date; and names that fields had."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rcmstr_jax.augment.colour import ColourJitter
from rcmstr_jax.augment.views import ViewRanges
from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.runtime.config_files import config_from_jsonable
from rcmstr_jax.runtime.errors import ConfigError

# What stored configs lack that are older than a field: runs did then what its value says. Fields of
# pretraining that lie in no section stand under "".
ADDED: dict[str, dict[str, Any]] = {
    "": {
        **{"log_gradients_every": 0, "key_groups": 1, "init_from": "", "init_may_differ": ()},
        "drop_path": 0.0,
    },
    "contrast": {"frame_keys": 0, "precision": "auto"},
    "model": {
        "attention": CompactEncoder.attention,
        "rectify_first": False,
        "remat": "none",
        "precision": "auto",
    },
    "views": {
        "min_ops": 1,
        "precision": "auto",
        "ranges": dataclasses.asdict(ViewRanges()),
        "colours": False,
        "colour": dataclasses.asdict(ColourJitter()),
    },
    "mim": {"target": "pixels"},
    "momentum": {"reference_batch": 0},
    "train": {"passes": 0.0, "drop_path": 0.0},
    "data.synthetic": {"alphabet_from": "", "looks": "all"},
}
# Lengths that were given in steps, and their names now that they are given in images.
IN_IMAGES = {
    "total_steps": "total_images",
    "optimizer.warmup_steps": "optimizer.warmup_images",
}
# The same for a command line.
RENAMED = {
    old: f"this length is given in images: use --config.{new}, steps times config.batch_size"
    for old, new in IN_IMAGES.items()
}


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config, JSON-ready, with the fields that it is older than.

    Args:
      config: of pretraining or of an evaluation; what is no config comes back as it is.
    """
    new = dict(config)
    for name, fields in ADDED.items():
        if name:
            new = _with(new, name.split("."), fields)
    if "optimizer" not in new:
        return new
    for old, images in IN_IMAGES.items():
        section, _, field = old.rpartition(".")
        if section:
            new[section] = dict(new[section])
        holder = new[section] if section else new
        if field in holder:
            steps = holder.pop(field)
            holder.setdefault(images.rpartition(".")[2], steps * new["batch_size"])
    return {**ADDED[""], **new}


def _with(config: Mapping[str, Any], section: list[str], fields: dict[str, Any]) -> dict[str, Any]:
    """A config with fields that a section of it, if it has that, lacks."""
    if not section:
        return {**fields, **config}
    held = config.get(section[0])
    if not isinstance(held, Mapping):
        return dict(config)
    return {**config, section[0]: _with(held, section[1:], fields)}


def as_config(config: ConfigDict | Mapping[str, Any]) -> ConfigDict:
    """A config as it was made, or as a run stored it.

    Raises:
      ConfigError: one that was made with a name that a field had earlier.
    """
    if not isinstance(config, ConfigDict):
        return config_from_jsonable(filled(config))
    for old, images in IN_IMAGES.items():
        section, _, field = old.rpartition(".")
        holder = config.get(section, {}) if section else config
        if field in holder:
            raise ConfigError(
                f"config.{old}={holder[field]}: this length is given in images: use "
                f"config.{images}={holder[field] * config.batch_size}"
            )
    return config
