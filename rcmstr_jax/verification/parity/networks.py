"""Sizes of the golden networks, read off the shapes of their weights, and the modules they need."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax

from rcmstr_jax.interop.torch_weights import flatten
from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.hierarchy import HIERARCHIES, Predictors
from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.verification.parity.fixture import Fixture


def count_indices(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the group of `pattern` takes at the beginning of the names."""
    return len({m.group(1) for name in names if (m := re.match(pattern, name))})


def branch_network(fixture: Fixture, prefix: str, subwords: int) -> RCMSTR:
    """Encoder, projector and predictors of the sizes that the weights below `prefix` have."""
    names = [name.removeprefix(prefix) for name in fixture.names(prefix)]
    conv = r"FeatureExtraction\.ConvNet\.layer{}\.(\d+)\."
    blocks = tuple(count_indices(names, conv.format(stage)) for stage in (1, 2, 3, 4))
    assert len(blocks) == 4
    width = fixture.shape(f"{prefix}FeatureExtraction.ConvNet.conv4_2.weight")[0]
    hidden = fixture.shape(f"{prefix}SequenceModeling.0.rnn.weight_hh_l0")[1]
    layers = count_indices(names, r"SequenceModeling\.(\d+)\.")
    output = fixture.shape(f"{prefix}SequenceModeling.{layers - 1}.linear.weight")[0]
    return RCMSTR(
        encoder=ResNet(width=width, blocks=blocks),
        projector=BiLSTMProjector(hidden=hidden, layers=layers, output=output),
        predictors=Predictors(
            dim=fixture.shape(f"{prefix}frame_fc.weight")[0],
            hierarchies=HIERARCHIES,
            subwords=subwords,
        ),
    )


def size_of(images: Any) -> tuple[int, int]:
    """Height and width of images, channels last."""
    return int(images.shape[1]), int(images.shape[2])


def template(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Flat tree of a module's variables; nothing is computed."""
    # The arguments stay outside of the tracing: some of them are lengths.
    return flatten(jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0)))
