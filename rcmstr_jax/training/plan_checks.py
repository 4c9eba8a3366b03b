"""What cannot work, found while a plan is made. Every message names field, value and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from rcmstr_jax.metrics.words import POLICIES
from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.vit import VIT_SIZES
from rcmstr_jax.runtime.config_files import flatten
from rcmstr_jax.runtime.errors import ConfigError, closest
from rcmstr_jax.ssl.masking import KINDS
from rcmstr_jax.ssl.objective import HIERARCHIES, PAIRS, ContrastOptions

if TYPE_CHECKING:
    from rcmstr_jax.training.plan import MaskPlan, ModelPlan

# Encoders with masked forms, batch statistics, patches of 8 x 4 pixels and W/4 + 1 frames.
CONVOLUTIONAL = ("cnn", "compact")
CHOICES: dict[str, tuple[Any, ...]] = {
    "model.encoder": (*CONVOLUTIONAL, "vit"),
    "model.size": tuple(VIT_SIZES),
    "model.projector": ("bilstm", "mlp"),
    "model.dtype": ("float32", "bfloat16"),
    "contrast.kl_reduction": ("batchmean", "mean"),
    "mim.kind": KINDS,
    "mim.form": ("masked_dense", "packed", "auto", "dense"),
    "key_norm": ("shuffle", "sync", "local"),
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.schedule": ("cosine", "step", "constant"),
}
MEMBERS: dict[str, tuple[str, ...]] = {
    "contrast.hierarchies": HIERARCHIES,
    "contrast.pairs": PAIRS,
}
# Field -> (lowest, highest) value that makes sense, ends included; None is open.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "total_steps": (1, None),
    "batch_size": (2, None),
    "accumulation": (1, None),
    "log_every": (1, None),
    "checkpoint_every": (1, None),
    "keep_checkpoints": (1, None),
    "keep_period": (0, None),
    "picture_every": (-1, None),
    "max_skipped": (1, None),
    "data.workers": (0, None),
    "data.prefetch": (0, None),
    "model.depth": (0, None),
    "model.heads": (0, None),
    "model.projector_hidden": (1, None),
    "model.predict_dim": (1, None),
    "views.min_ops": (0, 7),
    "views.max_ops": (1, 7),
    "rearrange.group": (1, None),
    "rearrange.blocks": (1, None),
    "contrast.subwords": (1, None),
    "contrast.queue_size": (1, None),
    "contrast.chunk": (0, None),
    "contrast.alpha": (0, None),
    "contrast.beta": (0, None),
    "mim.weight": (0, None),
    "mim.block_ratio": (0, 1),
    "momentum.value": (0, 1),
    "optimizer.reference_batch": (0, None),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, None),
    "optimizer.warmup_steps": (0, None),
    "optimizer.clip": (0, None),
}
POSITIVE = (
    "contrast.temperature",
    "contrast.relation_temperature",
    "optimizer.learning_rate",
)
# A decoder or charset that is the one of the recogniser that is continued.
CONTINUED = "continued"
# The same for evaluation; fields of the model are those above.
EVALUATION_CHOICES: dict[str, tuple[Any, ...]] = {
    "protocol": ("frozen", "finetune", "score"),
    "branch": ("online", "momentum"),
    "policy": tuple(POLICIES),
    "decoder.name": ("ctc", "linear", "attention", "transformer", CONTINUED),
    "train.feature_dtype": ("float32", "bfloat16", "float16"),
}
EVALUATION_RANGES: dict[str, tuple[float | None, float | None]] = {
    "eval_batch_size": (1, None),
    "workers": (0, None),
    "decoder.hidden": (1, None),
    "decoder.depth": (1, None),
    "decoder.beams": (0, None),
    "decoder.max_length": (1, None),
    "train.steps": (1, None),
    "train.batch_size": (1, None),
    "train.accumulation": (1, None),
    "train.steps_per_call": (1, None),
    "train.log_every": (1, None),
    "train.checkpoint_every": (0, None),
    "train.max_skipped": (1, None),
    "train.validation": (0, None),
    "train.validate_every": (1, None),
    "train.patience": (0, None),
    "train.probe_steps": (0, None),
    "train.view_ops": (0, 7),
    "train.clip": (0, None),
    "train.weight_decay": (0, None),
    "train.warmup_share": (0, 1),
    "train.average": (0, 0.999999),
    "train.memory_gib": (0, None),
}
EVALUATION_POSITIVE = ("train.learning_rate", "train.layer_decay")


def check_pretrain_values(config: ConfigDict) -> None:
    """Choices and ranges of a pretraining config.

    Raises:
      ConfigError: as everything here, naming field, value and remedy.
    """
    values = dict(flatten(config))
    _check_values(values, CHOICES, RANGES, POSITIVE, "pretrain")
    for name, members in MEMBERS.items():
        for value in values[name]:
            if value not in members:
                raise ConfigError(
                    f"config.{name} holds {value!r}: did you mean "
                    f"{closest(str(value), members)!r}? Choose from {', '.join(members)}"
                )


def check_evaluation_values(config: ConfigDict) -> None:
    """Choices and ranges of an evaluation config, and what its fields say about each other."""
    of_model = {name: known for name, known in CHOICES.items() if name.startswith("model.")}
    values = dict(flatten(config))
    _check_values(
        values,
        {**EVALUATION_CHOICES, **of_model},
        EVALUATION_RANGES,
        EVALUATION_POSITIVE,
        "evaluate",
    )
    train = config.train
    if train.layer_decay > 1:
        raise ConfigError(
            f"config.train.layer_decay={train.layer_decay} must lie between 0 and 1; 1 treats all "
            "layers alike"
        )
    if train.patience and not train.validation:
        raise ConfigError(
            f"config.train.patience={train.patience} without words to validate on: set "
            "config.train.validation, or config.train.patience=0"
        )
    if train.validation_source and not train.validation:
        raise ConfigError(
            f"config.train.validation_source={tuple(train.validation_source)} without a number of "
            "words to take: set config.train.validation"
        )
    if train.labels <= 0 or (train.labels > 1 and train.labels != int(train.labels)):
        raise ConfigError(
            f"config.train.labels={train.labels}: give a share in (0, 1] or a whole number of "
            "words above 1"
        )
    if config.decoder.beams > 1 and config.decoder.name not in ("transformer", CONTINUED):
        raise ConfigError(
            f"config.decoder.beams={config.decoder.beams} belongs to config.decoder.name="
            f"transformer: set it to 1 for {config.decoder.name!r}"
        )


def _check_values(
    values: Mapping[str, Any],
    choices: Mapping[str, tuple[Any, ...]],
    ranges: Mapping[str, tuple[float | None, float | None]],
    positive: tuple[str, ...],
    kind: str,
) -> None:
    missing = sorted({*choices, *ranges, *positive} - set(values))
    if missing:
        known = {"pretrain": "pretraining", "evaluate": "evaluation"}[kind]
        raise ConfigError(
            f"--config is no {known} config: it has no {missing[0]}; give a file of configs/{kind}"
        )
    for name, known_values in choices.items():
        if values[name] not in known_values:
            raise ConfigError(
                f"config.{name}={values[name]!r} is unknown: did you mean "
                f"{closest(str(values[name]), known_values)!r}? "
                f"Use one of {', '.join(known_values)}"
            )
    for name, (low, high) in ranges.items():
        value = values[name]
        if (low is not None and value < low) or (high is not None and value > high):
            allowed = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"config.{name}={value} is out of range: set it {allowed}")
    for name in positive:
        if values[name] <= 0:
            raise ConfigError(f"config.{name}={values[name]} must be positive")


# Encoder -> blocks per stage as they are built by default, and what share of the width comes first.
_SHAPES: dict[str, tuple[tuple[int, ...], int, str]] = {
    "cnn": (ResNet.blocks, 16, "a sixteenth"),
    "compact": (CompactEncoder.blocks, 8, "an eighth"),
}


def check_model(model: ModelPlan) -> None:
    """Sizes of the network that cannot work."""
    width = model.image_width
    published, share, part = _SHAPES.get(model.encoder, ((), 1, ""))
    if width < 8 or width % 4:
        raise ConfigError(
            f"config.model.image_width={width} must be a multiple of 4, at least 8: "
            f"use {100 if model.convolutional else 128}, or {max(8, width // 4 * 4)}"
        )
    if model.width < share or model.width % share:
        raise ConfigError(
            f"config.model.width={model.width} must be a multiple of {share}, because the first "
            f"layer has {part} of it: use {max(share, round(model.width / share) * share)}"
        )
    counts = model.blocks if model.convolutional else ()
    if len(counts) != len(published) or any(count < 0 for count in counts):
        raise ConfigError(
            f"config.model.blocks={model.blocks} must be {len(published)} counts, one per stage: "
            f"for example {published}"
        )
    if model.encoder == "compact" and model.attention < 0:
        raise ConfigError(
            f"config.model.attention={model.attention} is out of range: set it at least 0"
        )
    if model.encoder != "cnn" and model.width % model.heads:
        raise ConfigError(
            f"config.model.width={model.width} is not divisible by the {model.heads} attention "
            f"heads: set config.model.heads to a divisor of it"
        )
    if not model.convolutional and model.rectifier:
        raise ConfigError(
            "config.model.rectifier=True belongs to the CNN: set it to False or "
            "config.model.encoder=cnn"
        )
    if model.rectifier_from and not model.rectifier:
        raise ConfigError(
            f"config.model.rectifier_from={model.rectifier_from} without config.model.rectifier: "
            "set config.model.rectifier=True"
        )


def check_rearrangement(config: ConfigDict, model: ModelPlan) -> None:
    """Sub-words and blocks that the frames cannot be cut into."""
    frames, width, blocks = model.frames, model.image_width, config.rearrange.blocks
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


def check_batch(
    config: ConfigDict,
    contrast: ContrastOptions,
    keys_per_image: Mapping[str, int],
    *,
    devices: int,
    hosts: int,
) -> None:
    """A batch that devices, parts, groups or queues cannot take."""
    batch, group = config.batch_size, config.rearrange.group
    local = _per_device("batch_size", batch, devices, hosts)
    parts = _check_parts("accumulation", config.accumulation, "batch_size", batch, local)
    if config.rearrange.enabled and local // parts % group:
        unit = devices * parts * group
        raise ConfigError(
            f"config.batch_size={batch} gives {local} images per device in "
            f"config.accumulation={parts} part(s), which cannot be grouped by "
            f"config.rearrange.group={group}: use {max(1, round(batch / unit)) * unit}"
        )
    if not (contrast.queues or config.mim.enabled):
        raise ConfigError(
            "config.contrast.hierarchies=() and config.contrast.pairs=() leave nothing to "
            "contrast: name at least one of frame, subword, word, or set config.mim.enabled=True"
        )
    largest = max(contrast.queues, key=lambda name: keys_per_image[name], default="word")
    keys = batch * keys_per_image[largest]
    if config.contrast.queue_size < keys:
        raise ConfigError(
            f"config.contrast.queue_size={config.contrast.queue_size} is smaller than the {keys} "
            f"{largest} keys of one step ({batch} images, {keys_per_image[largest]} each): set it "
            f"to at least {keys}, or lower config.batch_size"
        )


def check_evaluation_batch(config: ConfigDict, *, devices: int, hosts: int) -> None:
    """A batch that the devices of an evaluation cannot take."""
    if config.protocol == "score":
        return
    batch = config.train.batch_size
    local = _per_device("train.batch_size", batch, devices, hosts)
    _check_parts("train.accumulation", config.train.accumulation, "train.batch_size", batch, local)


def _per_device(field: str, batch: int, devices: int, hosts: int) -> int:
    if batch % hosts or batch % devices:
        smaller = batch // devices * devices
        raise ConfigError(
            f"config.{field}={batch} cannot be divided over {devices} devices on {hosts} "
            f"host(s): use {f'{smaller} or ' if smaller else ''}{smaller + devices}"
        )
    return batch // devices


def _check_parts(field: str, parts: int, batch_field: str, batch: int, local: int) -> int:
    if local % parts:
        raise ConfigError(
            f"config.{field}={parts} does not divide the {local} images per device of "
            f"config.{batch_field}={batch}: use a divisor of {local}"
        )
    return parts


def check_mask(config: ConfigDict, mask: MaskPlan | None) -> None:
    """A mask that hides nothing or everything."""
    if mask is None:
        if config.mim.coupled:
            raise ConfigError(
                "config.mim.coupled=True without config.mim.enabled: there is no mask to share"
            )
        return
    try:
        _ = mask.visible
    except ValueError as error:
        raise ConfigError(f"config.mim.{error}") from error


def specs(source: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Specs of sources as a tuple, also where a config holds a single string."""
    return (source,) if isinstance(source, str) else tuple(source)


def check_data(config: ConfigDict) -> None:
    """Sources and weights that do not go together."""
    sources, weights = specs(config.data.source), tuple(config.data.weights)
    if not sources:
        raise ConfigError(
            "config.data.source is empty: give lmdb:PATH, folder:PATH, tfds:NAME or synthetic"
        )
    if weights and (len(weights) != len(sources) or min(weights) <= 0):
        raise ConfigError(
            f"config.data.weights={weights} must be {len(sources)} positive numbers, one per "
            "config.data.source, or empty"
        )


def check_schedule(config: ConfigDict) -> None:
    """Schedules that end before they begin."""
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
