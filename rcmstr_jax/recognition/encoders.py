"""The encoder under test: from a pretraining run, or as that run started from it."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from rcmstr_jax.models.backbone import Backbone
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.config_files import config_from_jsonable, config_to_jsonable
from rcmstr_jax.runtime.digest import nested
from rcmstr_jax.training.build import build_encoder, image_size
from rcmstr_jax.training.step_inputs import images_to_float

Tree = Any
# What of the network evaluation uses; projector, predictors and reconstruction head are dropped.
ENCODER_PARTS = ("encoder", "rectifier")
RANDOM = "random"
# Branches of a pretraining run and how their arrays are called in its checkpoints.
BRANCHES = {"online": "", "momentum": "momentum_"}
# What pretraining folds into its base key before it initialises the network.
INIT_PURPOSE = 0


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

    def infer(self, params: Tree, batch_stats: Tree, images: Any) -> Float[Array, "b t d"]:
        """Frames in inference mode, normalised by `batch_stats`; images uint8 or in [-1, 1]."""
        variables = {"params": params, "batch_stats": batch_stats}
        frames: Any = self.model.apply(variables, images_to_float(images))
        return frames

    def train(
        self, params: Tree, batch_stats: Tree, images: Any
    ) -> tuple[Float[Array, "b t d"], Tree]:
        """Frames in training mode, normalised by the batch, and the running statistics after it."""
        frames, changed = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            images_to_float(images),
            train=True,
            mutable=["batch_stats"],
        )
        return frames, {**batch_stats, **changed.get("batch_stats", {})}

    def frozen(
        self, params: Tree, batch_stats: Tree, images: Any
    ) -> tuple[Float[Array, "b t d"], Tree]:
        """This encoder in inference mode, in the form of `train`: the arguments are not used."""
        return self.infer(self.params, self.batch_stats, images), batch_stats

    def frames_shape(self) -> tuple[int, int]:
        """(T, D) of one word; nothing is computed."""
        images = jax.ShapeDtypeStruct((1, *self.image_size, 3), jnp.float32)
        shape = jax.eval_shape(self.infer, self.params, self.batch_stats, images).shape
        return shape[1], shape[2]

    @functools.cached_property
    def jitted(self) -> Callable[[Tree, Tree, Any], Float[Array, "b t d"]]:
        """`infer`, compiled once per shape."""
        return jax.jit(self.infer)


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


def split_step(folder: str) -> tuple[str, int | None]:
    """Reads `DIR@STEP`, the checkpoint of one step; `DIR` stands for the newest."""
    found = re.fullmatch(r"(.+)@(\d+)", folder)
    return (found[1], int(found[2])) if found else (folder, None)


def read_description(folder: str) -> ConfigDict:
    """The resolved configuration that pretraining left in its workdir.

    Raises:
      ValueError: the folder holds no `config.json`.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(
            f"--pretrained={folder}: {path} is missing, so this is not the workdir of a"
            " pretraining run; give the --workdir of launch/pretrain.py, or `random`"
        )
    return config_from_jsonable(json.loads(path.read_text(encoding="utf-8")))


def encoder_network(config: ConfigDict) -> Backbone:
    """Encoder and rectifier of a pretraining config."""
    return Backbone(
        encoder=build_encoder(config),
        rectifier=TpsRectifier(size=image_size(config)) if config.model.rectifier else None,
    )


def random_encoder(config: ConfigDict, origin: dict[str, Any] | None = None) -> Encoder:
    """The encoder as pretraining with this config and seed starts from it.

    Args:
      config: holds `seed` and a `model` section; the rest is not looked at.
      origin: additions to the report's description.
    """
    variables = jax.jit(initializer(config))()
    return Encoder(
        model=encoder_network(config),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        image_size=image_size(config),
        origin={"source": RANDOM, "seed": config.seed, **describe_model(config), **(origin or {})},
    )


def initializer(config: ConfigDict) -> Callable[[], Tree]:
    """A function that makes the variables of `encoder_network`, with pretraining's keys."""
    images = jnp.zeros((2, *image_size(config), 3))
    model = encoder_network(config)

    def init() -> Tree:
        key = jax.random.fold_in(jax.random.key(config.seed), INIT_PURPOSE)
        return model.init(key, images)

    return init


def describe_model(config: ConfigDict) -> dict[str, Any]:
    """What a report says about an architecture."""
    return {"architecture": config.model.encoder, "model": config_to_jsonable(config.model)}


def load_encoder(pretrained: str, config: ConfigDict) -> Encoder:
    """The encoder that `--pretrained` names, parameters and running statistics.

    Args:
      pretrained: `DIR` of a pretraining run, `DIR@STEP` for an older checkpoint of it;
        `random:DIR` for the encoder that this run started from; `random` for the config's own
        `model` section and `seed`.
      config: an evaluation config; `branch` says which branch of a pretraining run is taken.

    Returns:
      The encoder, its arrays on the device.

    Raises:
      ValueError: the folder is no workdir of a pretraining run, or holds another architecture than
        its description says.
    """
    is_random, folder = split_pretrained(pretrained)
    folder, wanted_step = split_step(folder)
    if is_random:
        return random_encoder(
            read_description(folder) if folder else config, {"of": folder or None}
        )
    description = read_description(folder)
    branch = config.branch
    if branch not in BRANCHES:
        raise ValueError(f"branch={branch!r}: choose one of {', '.join(BRANCHES)}")
    with Checkpoints(folder, read_only=True) as checkpoints:
        step, _, arrays = checkpoints.read(wanted_step)
    prefix = BRANCHES[branch]
    params = nested(arrays, f"{prefix}params") | nested(arrays, "frozen_params")
    stats = nested(arrays, f"{prefix}batch_stats")
    found = {"params": pick(params), "batch_stats": pick(stats)}
    check_same_shapes(found, {"batch_stats": {}} | jax.eval_shape(initializer(description)), folder)
    found = jax.tree.map(jnp.asarray, found)
    return Encoder(
        model=encoder_network(description),
        params=found["params"],
        batch_stats=found["batch_stats"],
        image_size=image_size(description),
        origin={
            "source": str(folder),
            "step": step,
            "branch": branch,
            **describe_model(description),
        },
    )


def pick(tree: Mapping[str, Tree]) -> dict[str, Tree]:
    """The parts of a parameter or statistics tree that a `Backbone` uses."""
    return {name: tree[name] for name in ENCODER_PARTS if name in tree}


def check_same_shapes(found: Tree, wanted: Tree, folder: str) -> None:
    """Refuses weights or statistics that do not fit, or are missing: nothing is left at random.

    Raises:
      ValueError: naming every array that is missing, unexpected or misshapen.
    """

    def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}

    have, need = shapes(found), shapes(wanted)
    wrong = {name: (have.get(name), need.get(name)) for name in have.keys() | need.keys()}
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if wrong:
        lines = [f"{name}: has {pair[0]}, needs {pair[1]}" for name, pair in sorted(wrong.items())]
        raise ValueError(
            f"--pretrained={folder}: the checkpoint does not fit the model of its config.json"
            f" ({len(wrong)} arrays): {'; '.join(lines[:10])}; the workdir mixes two runs, use a"
            " fresh one"
        )
