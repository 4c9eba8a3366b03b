"""Checks of a run's config before any long work.

Every message names the field, its value and the remedy, because it is all that a user sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rcmstr_jax.runtime.config_files import flatten
from rcmstr_jax.runtime.errors import ConfigError, closest
from rcmstr_jax.training.config_values import CHOICES, MEMBERS, POSITIVE, RANGES


def _check_values(values: Mapping[str, Any]) -> None:
    missing = sorted({*CHOICES, *MEMBERS, *RANGES, *POSITIVE} - set(values))
    if missing:
        raise ConfigError(
            f"--config is no pretraining config: it has no {missing[0]}; give a file of "
            "configs/pretrain"
        )
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise ConfigError(
                f"config.{name}={values[name]!r} is unknown: did you mean "
                f"{closest(str(values[name]), choices)!r}? Use one of {', '.join(choices)}"
            )
    for name, members in MEMBERS.items():
        for value in values[name]:
            if value not in members:
                raise ConfigError(
                    f"config.{name} holds {value!r}: did you mean "
                    f"{closest(str(value), members)!r}? Choose from {', '.join(members)}"
                )
    for name, (low, high) in RANGES.items():
        value = values[name]
        if (low is not None and value < low) or (high is not None and value > high):
            allowed = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"config.{name}={value} is out of range: set it {allowed}")
    for name in POSITIVE:
        if values[name] <= 0:
            raise ConfigError(f"config.{name}={values[name]} must be positive")


def _check_geometry(config: ConfigDict) -> None:
    model = config.model
    cnn = model.encoder == "cnn"
    width, blocks = model.image_width, config.rearrange.blocks
    if width < 8 or width % 4:
        raise ConfigError(
            f"config.model.image_width={width} must be a multiple of 4, at least 8: "
            f"use {100 if cnn else 128}, or {max(8, width // 4 * 4)}"
        )
    if cnn:
        if model.width < 16 or model.width % 16:
            raise ConfigError(
                f"config.model.width={model.width} must be a multiple of 16, because the first "
                f"layer has a sixteenth of it: use {max(16, round(model.width / 16) * 16)}"
            )
        if len(model.blocks) != 4 or any(count < 0 for count in model.blocks):
            raise ConfigError(
                f"config.model.blocks={tuple(model.blocks)} must be four counts, one per stage: "
                "the published network has (1, 2, 5, 3)"
            )
    else:
        heads = model.heads or {"tiny": 3, "small": 6, "base": 8}[model.size]
        width_needed = model.width or {"tiny": 192, "small": 384, "base": 512}[model.size]
        if width_needed % heads:
            raise ConfigError(
                f"config.model.width={width_needed} is not divisible by the {heads} attention "
                f"heads: set config.model.heads to a divisor of it"
            )
        if model.rectifier:
            raise ConfigError(
                "config.model.rectifier=True belongs to the CNN: set it to False or "
                "config.model.encoder=cnn"
            )
    if model.rectifier_from and not model.rectifier:
        raise ConfigError(
            f"config.model.rectifier_from={model.rectifier_from} without config.model.rectifier: "
            "set config.model.rectifier=True"
        )
    frames = width // 4 + cnn
    if config.contrast.subwords > frames:
        raise ConfigError(
            f"config.contrast.subwords={config.contrast.subwords} exceeds the {frames} frames of "
            f"config.model.image_width={width}: lower it"
        )
    if config.rearrange.enabled and (frames % blocks or width % blocks):
        fits = [n for n in range(2, frames + 1) if not frames % n and not width % n]
        raise ConfigError(
            f"config.rearrange.blocks={blocks} must divide the {frames} frames and the "
            f"config.model.image_width={width} pixels of an image: "
            + (f"use {' or '.join(map(str, fits))}" if fits else "use another image width")
        )


def _check_batch(config: ConfigDict, devices: int, hosts: int) -> None:
    batch, group = config.batch_size, config.rearrange.group
    if batch % hosts or batch % devices:
        smaller = batch // devices * devices
        raise ConfigError(
            f"config.batch_size={batch} cannot be divided over {devices} devices on {hosts} "
            f"host(s): use {f'{smaller} or ' if smaller else ''}{smaller + devices}"
        )
    local, parts = batch // devices, config.accumulation
    if local % parts:
        raise ConfigError(
            f"config.accumulation={parts} does not divide the {local} images per device of "
            f"config.batch_size={batch}: use a divisor of {local}"
        )
    if config.rearrange.enabled and local // parts % group:
        unit = devices * parts * group
        raise ConfigError(
            f"config.batch_size={batch} gives {local} images per device in "
            f"config.accumulation={parts} part(s), which cannot be grouped by "
            f"config.rearrange.group={group}: use {max(1, round(batch / unit)) * unit}"
        )
    contrast = config.contrast
    if not (contrast.hierarchies or contrast.pairs or config.mim.enabled):
        raise ConfigError(
            "config.contrast.hierarchies=() and config.contrast.pairs=() leave nothing to "
            "contrast: name at least one of frame, subword, word, or set config.mim.enabled=True"
        )
    frames = config.model.image_width // 4 + (config.model.encoder == "cnn")
    per_image = {"frame": frames, "subword": contrast.subwords, "word": 1}
    used = {*contrast.hierarchies, *(pair.split("_")[1] for pair in contrast.pairs)}
    largest = max(used, key=lambda name: per_image[name], default="word")
    keys = batch * per_image[largest]
    if contrast.queue_size < keys:
        raise ConfigError(
            f"config.contrast.queue_size={contrast.queue_size} is smaller than the {keys} "
            f"{largest} keys of one step ({batch} images, {per_image[largest]} each): set it to "
            f"at least {keys}, or lower config.batch_size"
        )


def _check_mask(config: ConfigDict) -> None:
    # Imported here: most commands load this module for its error alone, and need no network.
    from rcmstr_jax.training.build import mask_grid, visible_patches

    mim = config.mim
    if not mim.enabled:
        if mim.coupled:
            raise ConfigError(
                "config.mim.coupled=True without config.mim.enabled: there is no mask to share"
            )
        return
    if not 0 < mim.mask_ratio < 1:
        raise ConfigError(
            f"config.mim.mask_ratio={mim.mask_ratio} must lie between 0 and 1, ends excluded: "
            "0.7 is the default, and config.mim.enabled=False switches masking off"
        )
    rows, columns = mask_grid(config)
    patches = rows * columns
    try:
        visible = visible_patches(config)
    except ValueError as error:
        raise ConfigError(f"config.mim.{error}") from error
    if not 0 < visible < patches:
        name, parts = ("block_ratio", columns) if mim.kind == "block" else ("mask_ratio", patches)
        raise ConfigError(
            f"config.mim.{name}={mim[name]} hides {patches - visible} of the {patches} patches of "
            f"an image, and some must be hidden and some visible: use a ratio between "
            f"{1 / parts:.4g} and {1 - 1 / parts:.4g}"
        )


def _check_data(config: ConfigDict) -> None:
    sources = source_specs(config)
    if not sources:
        raise ConfigError(
            "config.data.source is empty: give lmdb:PATH, folder:PATH, tfds:NAME or synthetic"
        )
    weights = tuple(config.data.weights)
    if weights and (len(weights) != len(sources) or min(weights) <= 0):
        raise ConfigError(
            f"config.data.weights={weights} must be {len(sources)} positive numbers, one per "
            "config.data.source, or empty"
        )


def source_specs(config: ConfigDict) -> tuple[str, ...]:
    """`config.data.source` as a tuple, also where a config file holds a single string."""
    source = config.data.source
    return (source,) if isinstance(source, str) else tuple(source)


def check_config(config: ConfigDict, *, devices: int, hosts: int = 1) -> None:
    """Finds what cannot work, before anything is built.

    Args:
      config: overridden and locked.
      devices: over all hosts.
      hosts: processes of the run.

    Raises:
      ConfigError: naming field, value and remedy.
    """
    _check_values(dict(flatten(config)))
    _check_geometry(config)
    _check_batch(config, devices, hosts)
    _check_mask(config)
    _check_data(config)
    _check_schedule(config)


def _check_schedule(config: ConfigDict) -> None:
    optimizer = config.optimizer
    if optimizer.warmup_steps >= config.total_steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps={optimizer.warmup_steps} leaves nothing of "
            f"config.total_steps={config.total_steps}: set it below, "
            f"for example {config.total_steps // 10}"
        )
    final = config.momentum.final
    if final is not None and not config.momentum.value <= final <= 1:
        raise ConfigError(
            f"config.momentum.final={final} must lie between config.momentum.value="
            f"{config.momentum.value} and 1, or be None"
        )
