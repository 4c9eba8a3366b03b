"""Sizes of the golden networks, read off the shapes of their weights, and the modules they need."""

from __future__ import annotations

from typing import Any

from rcmstr_jax.interop.architectures import count
from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.hierarchy import HIERARCHIES, Predictors
from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.verification.parity.fixture import Fixture


def branch_network(fixture: Fixture, prefix: str, subwords: int) -> RCMSTR:
    """Encoder, projector and predictors of the sizes that the weights below `prefix` have."""
    names = [name.removeprefix(prefix) for name in fixture.names(prefix)]
    conv = r"FeatureExtraction\.ConvNet\.layer{}\.(\d+)\."
    blocks = tuple(count(names, conv.format(stage)) for stage in (1, 2, 3, 4))
    assert len(blocks) == 4
    width = fixture.shape(f"{prefix}FeatureExtraction.ConvNet.conv4_2.weight")[0]
    hidden = fixture.shape(f"{prefix}SequenceModeling.0.rnn.weight_hh_l0")[1]
    layers = count(names, r"SequenceModeling\.(\d+)\.")
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
