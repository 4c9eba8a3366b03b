"""`encoder_resnet_bilstm.npz`: the CNN encoder, the BiLSTM projector and the three heads."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import BRANCH
from rcmstr_jax.interop.torch_weights import export_weights, flatten
from rcmstr_jax.models.hierarchy import pool_frames
from rcmstr_jax.verification.parity.fixture import Fixture, relative_error
from rcmstr_jax.verification.parity.networks import branch_network

FILE = "encoder_resnet_bilstm.npz"
RULES = under("(?:params|batch_stats)/", "", BRANCH)
STAGES = ("layer1", "layer2", "layer3", "layer4")
SAFETY = 4.0  # one random rounding stands for the one that took place


def channels_first(x: Array) -> Array:
    """(batch, height, width, channels) to the golden layout."""
    return jnp.moveaxis(x, -1, 1)


def check(fixture: Fixture) -> None:
    """Inference and training mode, stage by stage, and the running statistics after one pass."""
    images = fixture.images("image")
    network = branch_network(fixture, "sd/", subwords=fixture.shape("eval/subword")[1])
    shapes = template(network, jnp.zeros((1, *images.shape[1:])))
    variables = fixture.weights("sd/", shapes, RULES)
    for train in (False, True):
        passes = jax.jit(functools.partial(_passes, network, variables, train))
        ours, statistics = passes(images)
        # The file holds the images in float32, the published code saw them in float64. Batch
        # statistics over few values amplify what was rounded off: how much is measured here.
        moved, _ = passes(round_differently(images))
        mode = "train" if train else "eval"
        for name, value in ours.items():
            rounding = relative_error(np.asarray(moved[name]), np.asarray(value)) if train else 0.0
            fixture.compare(f"{mode}/{name}", value, rounding=SAFETY * rounding)
    before = export_weights(flatten({"batch_stats": variables["batch_stats"]}), RULES)
    after = export_weights(flatten({"batch_stats": statistics}), RULES, counters=False)
    for name, value in after.items():
        fixture.compare(f"train/after/{name}", value, before=before[name])


def round_differently(images: Array) -> Array:
    """The images moved by up to half a unit in the last place of float32, as rounding did."""
    if images.dtype != jnp.float64:
        return images
    unit = np.spacing(np.abs(np.asarray(images)).astype(np.float32)).astype(np.float64)
    return images + unit * np.random.default_rng(0).uniform(-0.5, 0.5, images.shape)


def _passes(
    network: Any, variables: Any, train: bool, images: Array
) -> tuple[dict[str, Array], Any]:
    """Every golden quantity of a pass, in the golden layout, and the statistics after it."""
    (features, _), changed = network.apply(
        variables,
        images,
        train=train,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "conv4_2",
        method=lambda net, x, train: net.encoder(x, train=train),
    )
    inner = changed["intermediates"]["encoder"]
    result = {stage: channels_first(inner[stage][0]) for stage in STAGES}
    result["conv4_2"] = channels_first(inner["conv4_2"]["__call__"][0])
    result["feature_map"] = channels_first(features)
    result["visual_feature"] = pool_frames(features)
    context = network.apply(variables, result["visual_feature"], method="project_frames")
    result["contextual_feature"] = context
    if not train:
        heads = network.apply(
            variables, context, method=lambda net, x: net.predictors(x, normalize=False)
        )
        result.update(heads)
    return result, changed["batch_stats"]
