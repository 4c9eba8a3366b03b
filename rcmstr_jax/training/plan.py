"""A config becomes the plan of a run, once: frozen, typed, checked. Nothing below takes a config.

`pretrain_plan` and `evaluation_plan` resolve what `configs/` describe: sizes, queues, hierarchies,
the mask's grid, schedules, parts of a batch. All that cannot work is found here, before anything is
built; `plan_checks.py` holds the checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from rcmstr_jax.augment.colour import ColourJitter
from rcmstr_jax.augment.views import ViewRanges
from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.vit import VIT_SIZES
from rcmstr_jax.runtime.arithmetic import Precision
from rcmstr_jax.runtime.config_files import absent, config_to_jsonable, from_section
from rcmstr_jax.ssl.masking import visible_count
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.ssl.queue import queue_size
from rcmstr_jax.training import network_checks, plan_checks
from rcmstr_jax.training.stored import ADDED, as_config

IMAGE_HEIGHT = 32


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """Architecture of a branch: `config.model`, with width, depth and heads resolved."""

    encoder: str = "cnn"
    width: int = 512
    blocks: tuple[int, ...] = (1, 2, 5, 3)
    attention: int = 2
    size: str = "tiny"
    depth: int = 0
    heads: int = 0
    image_width: int = 100
    rectifier: bool = False
    rectifier_from: str = ""
    rectify_first: bool = False
    projector: str = "bilstm"
    projector_hidden: int = 256
    predict_dim: int = 128
    dtype: str = "float32"
    remat: str = "none"

    @property
    def convolutional(self) -> bool:
        """Whether the encoder is a convolutional one, with masked forms and batch statistics."""
        return self.encoder in plan_checks.CONVOLUTIONAL

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return IMAGE_HEIGHT, self.image_width

    @property
    def frames(self) -> int:
        """Frames per image: W/4 + 1, W/4 for the ViT (METHOD.md, words and shapes)."""
        return self.image_width // 4 + self.convolutional

    def vectors(self, subwords: int) -> dict[str, int]:
        """How many vectors of each hierarchy an image has."""
        return {"frame": self.frames, "subword": subwords, "word": 1}

    def queued(self, subwords: int, frame_keys: int) -> dict[str, int]:
        """How many of them enter the queues; of the frames a sample, unless `frame_keys` is 0."""
        return {**self.vectors(subwords), "frame": frame_keys or self.frames}

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width in pixels of a maskable patch: 8 x 4, 4 x 4 for the ViT."""
        return (8, 4) if self.convolutional else (4, 4)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return IMAGE_HEIGHT // self.patch[0], self.image_width // self.patch[1]

    @property
    def compute_dtype(self) -> Any:
        """None for float32, so that float64 inputs stay float64 in tests."""
        return None if self.dtype == "float32" else jnp.bfloat16


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """Lengths and habits of the training loop, whatever it trains.

    The fields are those of a pretraining config and of `config.train` of an evaluation; times are
    in steps. `checkpoint_every=0` saves only when asked to stop and at the end. `sections` of the
    config hold these fields and the learning rate, for what an error advises.
    """

    total_steps: int
    batch_size: int
    accumulation: int = 1
    steps_per_call: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    keep_period: int = 0
    max_skipped: int = 10
    picture_every: int = -1
    prefetch: int = 2
    compilation_cache: str = "auto"
    sections: tuple[str, str] = ("config", "config.optimizer")


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """Unlabelled images: `config.data`."""

    source: tuple[str, ...]
    weights: tuple[float, ...] = ()
    cache: bool = False
    synthetic: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    workers: int = 0


@dataclasses.dataclass(frozen=True)
class ViewPlan:
    """Options of `augment.make_view`: `config.views`; `colour` None leaves colours as they are."""

    min_ops: int = 1
    max_ops: int = 5
    ranges: ViewRanges = dataclasses.field(default_factory=ViewRanges)
    colour: ColourJitter | None = None


@dataclasses.dataclass(frozen=True)
class RearrangePlan:
    """Groups of images that exchange blocks: `config.rearrange`."""

    group: int = 2
    blocks: int = 2
    shared_permutation: bool = False


@dataclasses.dataclass(frozen=True)
class MaskPlan:
    """Masked image modelling: `config.mim`, on a grid of patches of a size in pixels."""

    grid: tuple[int, int]
    patch: tuple[int, int]
    weight: float = 1.0
    mask_ratio: float = 0.7
    block_ratio: float = 0.15
    kind: str = "patch_block"
    coupled: bool = False
    form: str = "auto"
    target: str = "pixels"
    normalize_targets: bool = True

    @property
    def visible(self) -> int:
        """Patches of an image that stay visible; the same for every mask.

        Raises:
          ValueError: the ratios hide nothing, everything, or less than the block.
        """
        return visible_count(self.grid, self.mask_ratio, self.block_ratio, self.kind)


@dataclasses.dataclass(frozen=True)
class MomentumPlan:
    """The moving average of the momentum branch.

    `value`, rising to `final` unless that is None, is the share of the old parameters that is left
    after `reference_batch` images; a step has it to the power of `exponent`.
    """

    value: float = 0.999
    final: float | None = None
    exponent: float = 1.0


@dataclasses.dataclass(frozen=True)
class OptimizerPlan:
    """Optimiser and schedule: `config.optimizer` (METHOD.md 7).

    `peak` is the rate at the top of the schedule for this batch size, `total_steps` the length of
    the schedule with its warm-up.
    """

    name: str = "sgd"
    peak: float = 0.0015
    total_steps: int = 1
    schedule: str = "constant"
    milestones: tuple[float, ...] = ()
    warmup_steps: int = 0
    momentum: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 1e-4
    decay_vectors: bool = True
    clip: float = 0.0


@dataclasses.dataclass(frozen=True)
class PretrainPlan:
    """Everything about a pretraining run; `configs/pretrain/common.py` explains the fields.

    None stands for what is switched off (`views`, `rearrange`, `mask`). `queue_sizes` are rounded
    to whole steps. `config` is the resolved config, JSON-ready, as results keep it.
    """

    seed: int
    init_from: str
    init_may_differ: tuple[str, ...]
    loop: LoopPlan
    data: DataPlan
    model: ModelPlan
    views: ViewPlan | None
    rearrange: RearrangePlan | None
    contrast: ContrastOptions
    subwords: int
    frame_keys: int
    queue_sizes: Mapping[str, int]
    mask: MaskPlan | None
    momentum: MomentumPlan
    key_norm: str
    key_groups: int
    drop_path: float
    log_gradients_every: int
    optimizer: OptimizerPlan
    precision: Precision
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def keys_per_image(self) -> dict[str, int]:
        """How many keys an image adds to the queue of each hierarchy."""
        return self.model.queued(self.subwords, self.frame_keys)


@dataclasses.dataclass(frozen=True)
class DecoderPlan:
    """The decoder of a recogniser: `config.decoder`."""

    name: str = "ctc"
    hidden: int = 256
    depth: int = 6
    beams: int = 1
    charset: str = "94"
    max_length: int = 25
    fresh: bool = False


@dataclasses.dataclass(frozen=True)
class LabelPlan:
    """Which labelled words are trained on, and how: `config.train` less `LoopPlan`."""

    source: tuple[str, ...]
    weights: tuple[float, ...] = ()
    labels: float = 1.0
    subset_seed: int | None = None
    validation: int = 0
    validation_source: tuple[str, ...] = ()
    validate_every: int = 500
    passes: float = 0.0
    patience: int = 0
    learning_rate: float = 5e-4
    warmup_share: float = 0.3
    clip: float = 5.0
    probe_steps: int = 0
    encoder_multiplier: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    average: float = 0.0
    drop_path: float = 0.0
    view_ops: int = 0
    feature_dtype: str = "float32"
    memory_gib: float = 8.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledPlan:
    """What evaluations of every kind have; `configs/evaluate/common.py` explains the fields."""

    seed: int
    protocol: str
    branch: str
    eval_batch_size: int
    calibrate_random_statistics: bool
    train: LabelPlan
    loop: LoopPlan
    model: ModelPlan
    precision: Precision
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.protocol == "frozen"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPlan(LabelledPlan):
    """Everything about an evaluation of text recognition."""

    benchmarks: str
    policy: str
    workers: int
    decoder: DecoderPlan


def model_plan(section: Mapping[str, Any]) -> ModelPlan:
    """The `model` section of a config, sizes resolved.

    Raises:
      ConfigError: a geometry that cannot work.
    """
    plan = from_section(ModelPlan, {**ADDED["model"], **section})
    if plan.encoder == "vit":
        sizes: Any = zip(("width", "depth", "heads"), VIT_SIZES[plan.size], strict=True)
        plan = dataclasses.replace(plan, **{k: getattr(plan, k) or size for k, size in sizes})
    elif plan.encoder == "compact":
        plan = dataclasses.replace(plan, heads=plan.heads or CompactEncoder.heads)
    network_checks.check_model(plan)
    return plan


def pretrain_plan(
    config: ConfigDict | Mapping[str, Any], *, devices: int = 1, hosts: int = 1
) -> PretrainPlan:
    """Resolves and checks a pretraining config.

    Args:
      config: as `configs/pretrain/common.py` describes, or as a run stored it.
      devices: over all hosts, which the batch is divided over.
      hosts: processes of the run.

    Raises:
      ConfigError: naming field, value and remedy.
    """
    config = as_config(config)
    plan_checks.check_values(config, plan_checks.PRETRAIN)
    model = model_plan(config.model)
    contrast, mim, views = config.contrast, config.mim, config.views
    optimizer, momentum = config.optimizer, config.momentum
    rearrange = from_section(RearrangePlan, config.rearrange) if config.rearrange.enabled else None
    mask = from_section(MaskPlan, mim, grid=model.grid, patch=model.patch) if mim.enabled else None
    options = from_section(ContrastOptions, contrast, product_dtype=model.compute_dtype)
    data = from_section(DataPlan, config.data)
    plan_checks.check_batch(config, model, options.queues, devices=devices, hosts=hosts)
    plan_checks.check_sections(config, data, mask)
    per_image = model.queued(contrast.subwords, contrast.frame_keys)
    colour = ColourJitter(**views.colour) if views.colours else None
    total_steps = config.total_images // config.batch_size
    return from_section(
        PretrainPlan,
        config,
        loop=from_section(
            LoopPlan,
            config,
            total_steps=total_steps,
            **{"prefetch": config.data.prefetch, "steps_per_call": 1},
            sections=LoopPlan.sections,
        ),
        data=data,
        model=model,
        views=from_section(ViewPlan, views, colour=colour) if views.enabled else None,
        rearrange=rearrange,
        contrast=options,
        subwords=contrast.subwords,
        frame_keys=contrast.frame_keys,
        queue_sizes={
            name: queue_size(contrast.queue_size, config.batch_size * per_image[name])
            for name in options.queues
        },
        mask=mask,
        momentum=from_section(
            MomentumPlan, momentum, exponent=_times(config.batch_size, momentum.reference_batch)
        ),
        optimizer=from_section(
            OptimizerPlan,
            optimizer,
            peak=optimizer.learning_rate * _times(config.batch_size, optimizer.reference_batch),
            total_steps=total_steps,
            warmup_steps=round(optimizer.warmup_images / config.batch_size),
        ),
        precision=Precision(config.model.precision, contrast.precision, views.precision),
        config=config_to_jsonable(config),
    )


def _times(batch_size: int, reference: int) -> float:
    return batch_size / reference if reference else 1.0  # where there is none


def evaluation_plan(
    config: ConfigDict | Mapping[str, Any], *, devices: int = 1, hosts: int = 1
) -> EvaluationPlan:
    """The same of an evaluation config, as `configs/evaluate/common.py` describes it."""
    config = as_config(config)
    plan_checks.check_values(config, plan_checks.EVALUATE)
    plan_checks.check_training(config, devices=devices, hosts=hosts)
    return from_section(
        EvaluationPlan,
        config,
        loop=label_loop(config),
        model=model_plan(config.model),
        precision=Precision(config.model.precision),
        benchmarks=str(config.benchmarks),
        config=config_to_jsonable(config),
    )


def label_loop(config: ConfigDict) -> LoopPlan:
    """The loop of what is trained on labels."""
    given = absent(LoopPlan, config.train)
    given |= {"total_steps": config.train.steps, "keep_checkpoints": 1}
    given |= {"sections": ("config.train",) * 2, "compilation_cache": config.compilation_cache}
    return from_section(LoopPlan, config.train, **given)
