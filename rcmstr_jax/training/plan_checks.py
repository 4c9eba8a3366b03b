"""What cannot work, found while a plan is made. Every message names field, value and remedy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from rcmstr_jax.augment.colour import ColourJitter
from rcmstr_jax.augment.views import ViewRanges
from rcmstr_jax.metrics.words import POLICIES
from rcmstr_jax.models.remat import REMAT
from rcmstr_jax.models.vit import VIT_SIZES
from rcmstr_jax.runtime.arithmetic import PRECISIONS
from rcmstr_jax.runtime.config_files import flatten
from rcmstr_jax.runtime.errors import ConfigError, closest
from rcmstr_jax.ssl.masking import KINDS
from rcmstr_jax.ssl.objective import HIERARCHIES, PAIRS
from rcmstr_jax.training import network_checks

if TYPE_CHECKING:
    from rcmstr_jax.training.plan import DataPlan, MaskPlan, ModelPlan

# Encoders with masked forms, batch statistics, patches of 8 x 4 pixels and W/4 + 1 frames.
CONVOLUTIONAL = ("cnn", "compact")
# A decoder or charset that is the one of the recogniser that is continued.
CONTINUED = "continued"
Bounds = tuple[float, float | None]


@dataclasses.dataclass(frozen=True)
class Values:
    """What the fields of a kind of config may hold, each by itself.

    Attributes:
      kind: what such a config is for.
      folder: of `configs/`, where they lie.
      choices: known values; of a tuple, those of its entries.
      ranges: lowest and highest value that makes sense, ends included; None is open.
      positive: fields that must be above 0.
    """

    kind: str
    folder: str
    choices: Mapping[str, tuple[Any, ...]]
    ranges: Mapping[str, Bounds]
    positive: tuple[str, ...]


def _by_field(fields: Mapping[Bounds, str]) -> dict[str, Bounds]:
    return {name: bounds for bounds, names in fields.items() for name in names.split()}


MODEL: dict[str, tuple[Any, ...]] = {
    "model.encoder": (*CONVOLUTIONAL, "vit"),
    "model.size": tuple(VIT_SIZES),
    "model.projector": ("bilstm", "mlp"),
    "model.dtype": ("float32", "bfloat16"),
    "model.precision": PRECISIONS,
    "model.remat": REMAT,
}
PRETRAIN = Values(
    kind="pretraining",
    folder="pretrain",
    choices={
        **MODEL,
        "contrast.hierarchies": HIERARCHIES,
        "contrast.pairs": PAIRS,
        "contrast.kl_reduction": ("batchmean", "mean"),
        "contrast.precision": PRECISIONS,
        "views.precision": PRECISIONS,
        "mim.kind": KINDS,
        "mim.form": ("masked_dense", "packed", "auto", "dense"),
        "mim.target": ("pixels", "momentum"),
        "key_norm": ("shuffle", "sync", "local"),
        "optimizer.name": ("sgd", "adamw"),
        "optimizer.schedule": ("cosine", "step", "constant"),
    },
    ranges=_by_field(
        {
            (2, None): "batch_size",
            (1, None): "total_images key_groups accumulation log_every checkpoint_every"
            " keep_checkpoints max_skipped model.projector_hidden model.predict_dim rearrange.group"
            " rearrange.blocks contrast.subwords contrast.queue_size",
            (0, None): "keep_period log_gradients_every data.workers data.prefetch"
            " model.depth model.heads contrast.chunk contrast.frame_keys contrast.alpha"
            " contrast.beta mim.weight optimizer.reference_batch"
            " optimizer.weight_decay optimizer.warmup_images optimizer.clip"
            " momentum.reference_batch",
            (-1, None): "picture_every",
            (0, 1): "mim.block_ratio momentum.value optimizer.momentum",
            (0, 0.9): "drop_path",
            (0, 7): "views.min_ops",
            (1, 7): "views.max_ops",
        }
    ),
    positive=("contrast.temperature", "contrast.relation_temperature", "optimizer.learning_rate"),
)
EVALUATE = Values(
    kind="evaluation",
    folder="evaluate",
    choices={
        **MODEL,
        "protocol": ("frozen", "finetune", "score"),
        "branch": ("online", "momentum"),
        "policy": tuple(POLICIES),
        "decoder.name": ("ctc", "linear", "attention", "plain_attention", "transformer", CONTINUED),
        "train.feature_dtype": ("float32", "bfloat16", "float16"),
    },
    ranges=_by_field(
        {
            (1, None): "eval_batch_size decoder.hidden decoder.depth decoder.max_length"
            " train.batch_size train.accumulation train.steps_per_call train.log_every"
            " train.max_skipped train.validate_every",
            (0, None): "workers decoder.beams train.checkpoint_every train.validation"
            " train.patience train.probe_steps train.clip train.weight_decay train.memory_gib"
            " train.steps train.passes",
            (0, 7): "train.view_ops",
            (0, 1): "train.warmup_share",
            (0, 0.999999): "train.average",
            (0, 0.9): "train.drop_path",
        }
    ),
    positive=("train.learning_rate", "train.layer_decay"),
)
DENSE = Values(
    kind="dense evaluation",
    folder="evaluate",
    choices={
        **MODEL,
        "task": ("segmentation", "super_resolution"),
        "protocol": ("frozen", "finetune"),
        "branch": ("online", "momentum"),
    },
    ranges=_by_field(
        {
            (1, None): "eval_batch_size train.batch_size train.steps train.accumulation"
            " train.steps_per_call train.log_every train.max_skipped",
            (0, None): "head.width head.depth train.checkpoint_every train.clip train.weight_decay"
            " train.memory_gib",
            (0, 1): "train.warmup_share train.layer_decay",
            (0, 0.999999): "train.average",
        }
    ),
    positive=("train.learning_rate", "train.layer_decay"),
)


def check_values(config: ConfigDict, allowed: Values) -> None:
    """Choices and ranges of single fields.

    Raises:
      ConfigError: as everything here, naming field, value and remedy.
    """
    values = dict(flatten(config))
    missing = sorted({*allowed.choices, *allowed.ranges, *allowed.positive} - set(values))
    if missing:
        raise ConfigError(
            f"--config is no {allowed.kind} config: it has no {missing[0]}; give a file of "
            f"configs/{allowed.folder}"
        )
    for name, known in allowed.choices.items():
        several = isinstance(values[name], list | tuple)
        for value in values[name] if several else (values[name],):
            if value not in known:
                raise ConfigError(
                    f"config.{name}{' holds ' if several else '='}{value!r}, which is unknown: did "
                    f"you mean {closest(str(value), known)!r}? Use one of {', '.join(known)}"
                )
    for name, (low, high) in allowed.ranges.items():
        value = values[name]
        if value < low or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"config.{name}={value} is out of range: set it {bounds}")
    for name in allowed.positive:
        if values[name] <= 0:
            raise ConfigError(f"config.{name}={values[name]} must be positive")


def check_training(config: ConfigDict, *, devices: int, hosts: int) -> None:
    """What the fields of an evaluation config say about each other."""
    train, decoder = config.train, config.decoder
    if train.layer_decay > 1:
        raise ConfigError(
            f"config.train.layer_decay={train.layer_decay} must lie between 0 and 1; 1 treats all "
            "layers alike"
        )
    if (train.steps > 0) == (train.passes > 0):
        raise ConfigError(
            f"config.train.passes={train.passes} beside config.train.steps={train.steps}: give one "
            "of the two lengths, and 0 for the other"
        )
    if train.drop_path and config.protocol == "frozen":
        raise ConfigError(
            f"config.train.drop_path={train.drop_path} with config.protocol=frozen, whose encoder "
            "stays as it is: set config.train.drop_path=0, or config.protocol=finetune"
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
    _check_labels(train.labels)
    if decoder.beams > 1 and decoder.name not in ("transformer", CONTINUED):
        raise ConfigError(
            f"config.decoder.beams={decoder.beams} belongs to config.decoder.name=transformer: set "
            f"it to 1 for {decoder.name!r}"
        )
    if config.protocol != "score":
        _rows_of_a_part(train, "config.train.", devices, hosts)


def check_dense(config: ConfigDict, *, devices: int, hosts: int) -> None:
    """What the fields of a dense evaluation's config say about each other."""
    train, source = config.train, config.train.source
    _check_labels(train.labels)
    if not isinstance(source, str) and len(source) != 1:
        raise ConfigError(
            f"config.train.source={tuple(source)} must be one set of words, for example "
            "rendered:0:2000"
        )
    if not config.benchmarks:
        raise ConfigError(
            "config.benchmarks is empty: name what is scored, for example "
            "rendered:1:500:medium:test"
        )
    if config.task == "segmentation" and config.recognizer:
        raise ConfigError(
            f"config.recognizer={config.recognizer!r} reads words before and after "
            "config.task=super_resolution: leave it empty for segmentation"
        )
    _rows_of_a_part(train, "config.train.", devices, hosts)


def _check_labels(labels: float) -> None:
    if labels <= 0 or (labels > 1 and labels != int(labels)):
        raise ConfigError(
            f"config.train.labels={labels}: give a share in (0, 1] or a whole number of "
            "words above 1"
        )


def check_batch(
    config: ConfigDict, model: ModelPlan, queues: Sequence[str], *, devices: int, hosts: int
) -> None:
    """Images that cannot be cut, and a batch that devices, parts, groups or queues cannot take."""
    network_checks.check_drop_path("config.drop_path", config.drop_path, model.encoder)
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
    batch, parts, group = config.batch_size, config.accumulation, config.rearrange.group
    rows = _rows_of_a_part(config, "config.", devices, hosts)
    if config.rearrange.enabled and rows % group:
        unit = devices * parts * group
        raise ConfigError(
            f"config.batch_size={batch} gives {batch // devices} images per device in "
            f"config.accumulation={parts} part(s), which cannot be grouped by "
            f"config.rearrange.group={group}: use {max(1, round(batch / unit)) * unit}"
        )
    if not (queues or config.mim.enabled):
        raise ConfigError(
            "config.contrast.hierarchies=() and config.contrast.pairs=() leave nothing to "
            "contrast: name at least one of frame, subword, word, or set config.mim.enabled=True"
        )
    sampled = config.contrast.frame_keys
    if sampled > frames:
        raise ConfigError(
            f"config.contrast.frame_keys={sampled} exceeds the {frames} frames of an image: use "
            f"0 for all of them, or fewer"
        )
    if rows % config.key_groups or (config.key_groups > 1 and config.key_norm != "shuffle"):
        raise ConfigError(
            f"config.key_groups={config.key_groups} must divide the {rows} images that a device "
            f"encodes at once, and take config.key_norm=shuffle (is {config.key_norm!r}): use a "
            f"divisor of {rows}, or 1"
        )
    per_image = model.queued(config.contrast.subwords, sampled)
    largest = max(queues, key=lambda name: per_image[name], default="word")
    keys = batch * per_image[largest]
    if config.contrast.queue_size < keys:
        raise ConfigError(
            f"config.contrast.queue_size={config.contrast.queue_size} is smaller than the {keys} "
            f"{largest} keys of one step ({batch} images, {per_image[largest]} each): set it "
            f"to at least {keys}, or lower config.batch_size"
        )


def _rows_of_a_part(section: ConfigDict, prefix: str, devices: int, hosts: int) -> int:
    """Images that a device takes at once: of its share of a batch, one part."""
    batch, parts = section.batch_size, section.accumulation
    if batch % hosts or batch % devices:
        smaller = batch // devices * devices
        raise ConfigError(
            f"{prefix}batch_size={batch} cannot be divided over {devices} devices on {hosts} "
            f"host(s): use {f'{smaller} or ' if smaller else ''}{smaller + devices}"
        )
    local: int = batch // devices
    if local % parts:
        raise ConfigError(
            f"{prefix}accumulation={parts} does not divide the {local} images per device of "
            f"{prefix}batch_size={batch}: use a divisor of {local}"
        )
    return local // parts


def check_sections(config: ConfigDict, data: DataPlan, mask: MaskPlan | None) -> None:
    """What the fields of mask, data, views, optimiser and momentum say about each other."""
    if mask is None and config.mim.coupled:
        raise ConfigError(
            "config.mim.coupled=True without config.mim.enabled: there is no mask to share"
        )
    if mask is not None and mask.target == "momentum" and not mask.normalize_targets:
        raise ConfigError(
            "config.mim.normalize_targets=False with config.mim.target=momentum: features that "
            "nothing scales shrink to nothing; set config.mim.normalize_targets=True"
        )
    try:
        _ = mask and mask.visible
    except ValueError as error:
        raise ConfigError(f"config.mim.{error}") from error
    number, weights = len(data.source), data.weights
    if not number:
        raise ConfigError(
            "config.data.source is empty: give lmdb:PATH, folder:PATH, tfds:NAME or synthetic"
        )
    if weights and (len(weights) != number or min(weights) <= 0):
        raise ConfigError(
            f"config.data.weights={weights} must be {number} positive numbers, one per "
            "config.data.source, or empty"
        )
    views, optimizer, momentum = config.views, config.optimizer, config.momentum
    if views.min_ops > views.max_ops:
        raise ConfigError(
            f"config.views.min_ops={views.min_ops} exceeds config.views.max_ops={views.max_ops}: "
            "lower it"
        )
    for kind, section in ((ViewRanges, "ranges"), (ColourJitter, "colour")):
        try:
            kind(**views[section])
        except ValueError as error:
            message = str(error).replace(f"{kind.__name__}.", f"config.views.{section}.", 1)
            raise ConfigError(message) from error
    images, batch = config.total_images, config.batch_size
    if images < batch:
        raise ConfigError(
            f"config.total_images={images} is less than one step of config.batch_size={batch}: "
            f"set it to at least {batch}"
        )
    if round(optimizer.warmup_images / batch) >= images // batch:
        raise ConfigError(
            f"config.optimizer.warmup_images={optimizer.warmup_images} leaves nothing of "
            f"config.total_images={images}: set it below, for example {images // 10}"
        )
    if momentum.final is not None and not momentum.value <= momentum.final <= 1:
        raise ConfigError(
            f"config.momentum.final={momentum.final} must lie between config.momentum.value="
            f"{momentum.value} and 1, or be None"
        )
