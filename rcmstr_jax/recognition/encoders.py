"""Encoders: of pretraining runs, of recognisers, or as these started from random initialisation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rcmstr_jax.models.backbone import Backbone
from rcmstr_jax.recognition.saved import (
    SavedRecognizer,
    find_recognizer,
    read_saved,
    refuse_absent,
    refuse_unfinished,
)
from rcmstr_jax.runtime.config_files import read_config
from rcmstr_jax.runtime.digest import misfits, nested
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.weights import read_weights, split_step
from rcmstr_jax.training.build import build_encoder, build_rectifier
from rcmstr_jax.training.plan import LabelledPlan, ModelPlan, model_plan
from rcmstr_jax.training.state import INIT_PURPOSE, select_parts
from rcmstr_jax.training.step_inputs import images_to_float

Tree = Any
# What of the network evaluation uses; projector, predictors and reconstruction head are dropped.
ENCODER_PARTS = ("encoder", "rectifier")
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A network of which only the frames are used.

    Attributes:
      model: the network.
      params: `{"encoder": ..., "rectifier": ...}`, the latter only where there is one.
      batch_stats: running statistics with the same first level; empty for a network without.
      image_size: (height, width) in pixels.
      origin: what to say about it in a report, JSON-ready.
    """

    model: Backbone
    params: Tree
    batch_stats: Tree
    image_size: tuple[int, int]
    origin: dict[str, Any]

    def __call__(self, images: Any) -> Float[Array, "b t d"]:
        """Frames of images (B, 32, W, 3), uint8 or float in [-1, 1]; compiled per batch size."""
        return self._compiled(self.params, self.batch_stats, images)

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        return jax.jit(self.infer)

    def infer(self, params: Tree, batch_stats: Tree, images: Any) -> Float[Array, "b t d"]:
        """Frames in inference mode, normalised by `batch_stats`; images uint8 or in [-1, 1]."""
        variables = {"params": params, "batch_stats": batch_stats}
        frames: Any = self.model.apply(variables, images_to_float(images), method="encode")
        return frames

    def train(
        self, params: Tree, batch_stats: Tree, images: Any, **options: Any
    ) -> tuple[Float[Array, "b t d"], Tree]:
        """Frames in training mode, normalised by the batch, and the running statistics after it.

        Options are those of the encoder.
        """
        frames, changed = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            images_to_float(images),
            train=True,
            method="encode",
            **options,
            mutable=["batch_stats"],
        )
        return frames, {**batch_stats, **changed.get("batch_stats", {})}

    def maps(
        self, params: Tree, batch_stats: Tree, images: Any, *, train: bool = False
    ) -> tuple[list[Float[Array, "b rows columns channels"]], Tree]:
        """Feature maps, fine to coarse, the last what frames are pooled of; and the statistics.

        The rectifier is left out: maps lie where the pixels of the image do.
        """
        kept = ["intermediates", "batch_stats"] if train else ["intermediates"]
        (features, _), changed = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            images_to_float(images),
            train=train,
            method="features",
            mutable=kept,
        )
        sown = changed.get("intermediates", {}).get("encoder", {})
        finer = [sown[name][0] for name in sorted(sown)]
        return [*finer, features], {**batch_stats, **changed.get("batch_stats", {})}

    def frames_shape(self) -> tuple[int, int]:
        """(T, D) of one word; nothing is computed."""
        images = jax.ShapeDtypeStruct((1, *self.image_size, 3), jnp.float32)
        shape = jax.eval_shape(self.infer, self.params, self.batch_stats, images).shape
        return shape[1], shape[2]


def split_pretrained(pretrained: str) -> tuple[bool, str]:
    """Reads `--pretrained`: `random`, `random:DIR` or `DIR`.

    Returns:
      (random initialisation?, folder whose description is used or "").
    """
    if pretrained == RANDOM:
        return True, ""
    if pretrained.startswith(f"{RANDOM}:"):
        return True, pretrained.removeprefix(f"{RANDOM}:")
    return False, pretrained


def make_encoder(
    section: Mapping[str, Any], variables: Mapping[str, Tree], origin: Mapping[str, Any]
) -> Encoder:
    """The encoder of a config's `model` section with its parameters and running statistics."""
    model = model_plan(section)
    described = {"architecture": section["encoder"], "model": dict(section)}
    return Encoder(
        model=build_backbone(model),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        image_size=model.image_size,
        origin={**origin, **described},
    )


def build_backbone(model: ModelPlan) -> Backbone:
    """Rectifier and encoder of a plan."""
    return Backbone(encoder=build_encoder(model), rectifier=build_rectifier(model))


def random_encoder(section: Mapping[str, Any], seed: int, of: str | None = None) -> Encoder:
    """The encoder as pretraining with this `model` section and seed starts from it.

    Args:
      of: workdir of the run that it is compared with, for the description.
    """
    variables = jax.jit(initializer(section, seed))()
    return make_encoder(section, variables, {"source": RANDOM, "seed": seed, "of": of})


def initializer(section: Mapping[str, Any], seed: int = 0) -> Callable[[], Tree]:
    """A function that makes the variables of the backbone, with pretraining's keys."""
    model = model_plan(section)
    network, images = build_backbone(model), jnp.zeros((2, *model.image_size, 3))

    def init() -> Tree:
        key = jax.random.fold_in(jax.random.key(seed), INIT_PURPOSE)
        return network.init(key, images, method="encode")

    return init


def planned_encoder(pretrained: str, plan: LabelledPlan) -> Encoder:
    """The encoder that `--pretrained` names; `random` is the plan's own model and seed.

    Raises:
      ConfigError: see `load_encoder`.
    """
    if pretrained == RANDOM:
        return random_encoder(plan.config["model"], plan.seed)
    return load_encoder(pretrained, branch=plan.branch)


def load_encoder(pretrained: str | Path, *, branch: str = "online") -> Encoder:
    """A trained encoder, parameters and running statistics.

    Args:
      pretrained: a name of weights that come with the package (`compact`), or a folder of weights;
        `DIR` of a finished evaluation; `DIR` of a pretraining run, `DIR@STEP` for an older
        checkpoint of it; `random:` before any of these for the encoder as that training started.
      branch: of a pretraining run, "online" or "momentum".

    Returns:
      The encoder, its arrays on the host.

    Raises:
      ConfigError: nothing of the kind is there, or it holds another architecture than its
        description says.
    """
    is_random, folder = split_pretrained(str(pretrained))
    if is_random and not folder:
        raise ConfigError(f"{pretrained} has no architecture: give {RANDOM}:DIR")
    home = find_recognizer(folder)
    if home is not None:
        saved = read_saved(home)
        if is_random:
            started = saved.description["encoder"]
            return random_encoder(
                saved.model, started.get("seed", saved.description["seed"]), folder
            )
        if branch != "online":
            raise ConfigError(
                f"config.branch={branch!r}, but {folder} is a recogniser, which has one branch:"
                " leave it at 'online'"
            )
        return saved_encoder(saved, {"source": folder, "step": saved.description["steps"]})
    folder, _ = split_step(folder)
    refuse_absent(folder)
    refuse_unfinished(folder)
    config = read_config(folder)
    if is_random:
        return random_encoder(config["model"], config["seed"], folder)
    weights = read_weights(str(pretrained), branch=branch)
    found = {k: select_parts(tree, ENCODER_PARTS) for k, tree in weights.variables.items()}
    origin = {"source": folder, "step": weights.step, "branch": branch}
    return _fitting_encoder(config["model"], found, origin, folder)


def saved_encoder(saved: SavedRecognizer, origin: Mapping[str, Any]) -> Encoder:
    """The encoder of a recogniser.

    Raises:
      ConfigError: its arrays do not fit its description.
    """
    found = nested(saved.arrays, "encoder")
    return _fitting_encoder(saved.model, found, origin, str(saved.place))


def _fitting_encoder(
    section: Mapping[str, Any], found: dict[str, Tree], origin: Mapping[str, Any], place: str
) -> Encoder:
    wanted = jax.eval_shape(initializer(section))
    check_same_shapes({"batch_stats": {}, **found}, {"batch_stats": {}, **wanted}, place)
    return make_encoder(section, found, origin)


def check_same_shapes(found: Tree, wanted: Tree, folder: str) -> None:
    """Refuses weights or statistics that do not fit, or are missing: nothing is left at random.

    Raises:
      ConfigError: naming every array that is missing, unexpected or misshapen.
    """
    wrong = misfits(found, wanted)
    if wrong:
        raise ConfigError(
            f"--pretrained={folder}: the checkpoint does not fit the model of its config.json"
            f" ({len(wrong)} arrays): {'; '.join(wrong[:10])}; the workdir mixes two runs, use a"
            " fresh one"
        )
