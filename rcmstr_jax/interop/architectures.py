"""Modules of the sizes that a state dict's shapes tell; sizes are never asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.interop.torch_weights import flatten
from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.decoders.attention import AttentionReader
from rcmstr_jax.models.hierarchy import HIERARCHIES, Predictors
from rcmstr_jax.models.linear import Linear
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.models.vit import VisionTransformer

Arrays = Mapping[str, np.ndarray]
# A module and the arguments that create its parameters.
Part = tuple[nn.Module, tuple[Any, ...]]
CONVNET = "FeatureExtraction.ConvNet."
_TPS = "Transformation.LocalizationNetwork."


class WrongKind(ValueError):
    """A checkpoint holds nothing of the kind asked for."""


def size(arrays: Arrays, name: str, axis: int) -> int:
    """One length of a named array, by which a network's width is known.

    Raises:
      WrongKind: naming what was expected and some of what was found.
    """
    if name not in arrays or arrays[name].ndim <= axis:
        found = ", ".join(list(arrays)[:8]) or "nothing"
        raise WrongKind(
            f"this is a checkpoint of another kind: expected an array {name!r} with more than "
            f"{axis} axes; found {found}{', …' if len(arrays) > 8 else ''}"
        )
    return int(arrays[name].shape[axis])


def count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the group of `pattern` takes at the beginning of the names."""
    return len({m.group(1) for name in names if (m := re.match(pattern, name))})


def template(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Flat tree of a module's variables; nothing is computed."""
    # The arguments stay outside of the tracing: some of them are lengths.
    return flatten(jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0)))


def resnet(arrays: Arrays, prefix: str) -> Part:
    """The encoder whose names start with `prefix`."""
    blocks = [count(arrays, rf"{re.escape(prefix)}layer{i}\.(\d+)\.") for i in (1, 2, 3, 4)]
    width = size(arrays, f"{prefix}conv4_2.weight", 0)
    if width % 16:
        raise WrongKind(f"{prefix}conv4_2.weight has {width} outputs: a multiple of 16 is needed")
    one, two, three, four = blocks
    return ResNet(width=width, blocks=(one, two, three, four)), (jnp.zeros((1, 32, 100, 3)),)


def projector(arrays: Arrays, prefix: str) -> Part:
    """The stacked BiLSTMs below `SequenceModeling`."""
    first = f"{prefix}SequenceModeling.0.rnn."
    layers = count(arrays, rf"{re.escape(prefix)}SequenceModeling\.(\d+)\.")
    module = BiLSTMProjector(hidden=size(arrays, f"{first}weight_hh_l0", 1), layers=layers)
    return module, (jnp.zeros((1, 4, size(arrays, f"{first}weight_ih_l0", 1))),)


def predictors(arrays: Arrays, prefix: str) -> Part:
    """The linear maps of the hierarchies that are there."""
    present = tuple(h for h in HIERARCHIES if f"{prefix}{h}_fc.weight" in arrays)
    first = f"{prefix}{(present or ('subword',))[0]}_fc.weight"
    module = Predictors(dim=size(arrays, first, 0), hierarchies=present, subwords=4)
    return module, (jnp.zeros((1, 4, size(arrays, first, 1))),)


def rectifier(arrays: Arrays, prefix: str) -> Part:
    """The rectifier below `Transformation`."""
    conv = f"{prefix}{_TPS}conv."
    stages = count(arrays, rf"{re.escape(conv)}(\d+)\.running_var")
    points = size(arrays, f"{prefix}{_TPS}localization_fc2.weight", 0)
    module = TpsRectifier(
        fiducials=points // 2,
        channels=tuple(size(arrays, f"{conv}{4 * i}.weight", 0) for i in range(stages)),
        hidden=size(arrays, f"{prefix}{_TPS}localization_fc1.0.weight", 0),
    )
    return module, (jnp.zeros((1, 32, 100, 3)),)


def has_rectifier(arrays: Arrays, prefix: str) -> bool:
    """Whether there is a rectifier."""
    return any(name.startswith(f"{prefix}Transformation.") for name in arrays)


def vit(arrays: Arrays) -> dict[str, Part]:
    """The ViT encoder."""
    width = size(arrays, "patch_embed.proj.weight", 0)
    side = size(arrays, "patch_embed.proj.weight", 3)
    module = VisionTransformer(
        width=width,
        depth=count(arrays, r"blocks\.(\d+)\."),
        heads=1,  # no parameter depends on it
        patch=(side, side),
        mlp_ratio=size(arrays, "blocks.0.mlp.fc1.weight", 0) / width,
    )
    return {"encoder": (module, (jnp.zeros((1, 8 * side, 8 * side, 3)),))}


def rclstr(arrays: Arrays) -> dict[str, Part]:
    """The parts of the online branch of a pretraining checkpoint."""
    modules = {
        "encoder": resnet(arrays, f"encoder_q.{CONVNET}"),
        "projector": projector(arrays, "encoder_q."),
        "predictors": predictors(arrays, "encoder_q."),
    }
    if has_rectifier(arrays, "encoder_q."):
        modules["rectifier"] = rectifier(arrays, "encoder_q.")
    return modules


def trbc(arrays: Arrays) -> dict[str, Part]:
    """The parts of a TPS-ResNet-BiLSTM-CTC recogniser."""
    generator = Linear(size(arrays, "Prediction.weight", 0))
    features = jnp.zeros((1, 4, size(arrays, "Prediction.weight", 1)))
    return {**_body(arrays), "decoder": (generator, (features,))}


def trba(arrays: Arrays) -> dict[str, Part]:
    """The parts of a TPS-ResNet-BiLSTM-Attn recogniser."""
    cell = "Prediction.attention_cell."
    reader = AttentionReader(
        num_classes=size(arrays, "Prediction.generator.weight", 0),
        hidden=size(arrays, f"{cell}h2h.weight", 0),
        feature_bias=f"{cell}i2h.bias" in arrays,
    )
    features = jnp.zeros((1, 4, size(arrays, f"{cell}i2h.weight", 1)))
    return {**_body(arrays), "decoder": (reader, (features, None, 1))}


def _body(arrays: Arrays) -> dict[str, Part]:
    modules = {"encoder": resnet(arrays, CONVNET), "projector": projector(arrays, "")}
    if has_rectifier(arrays, ""):
        modules["rectifier"] = rectifier(arrays, "")
    return modules
