"""`tps.npz`: the thin-plate-spline rectifier in inference mode."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rcmstr_jax.evaluation.parity.encoder import channels_first
from rcmstr_jax.evaluation.parity.fixture import Fixture
from rcmstr_jax.evaluation.parity.networks import count_indices, template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import TPS
from rcmstr_jax.models.tps import TpsRectifier

FILE = "tps.npz"
RULES = under("(?:params|batch_stats)/", "", TPS)


def check(fixture: Fixture) -> None:
    """Fiducial points, grid and rectified images."""
    images = fixture.images("image")
    conv = "sd/LocalizationNetwork.conv."
    # Convolutions, norms, activations and poolings are counted together, four to a stage.
    stages = count_indices(fixture.names(conv), r".*\.conv\.(\d+)\.running_var")
    height, width = fixture.shape("eval/rectified")[2:]
    rectifier: Any = TpsRectifier(
        fiducials=fixture.shape("sd/LocalizationNetwork.localization_fc2.weight")[0] // 2,
        size=(height, width),
        channels=tuple(fixture.shape(f"{conv}{4 * i}.weight")[0] for i in range(stages)),
        hidden=fixture.shape("sd/LocalizationNetwork.localization_fc1.0.weight")[0],
    )
    shapes = template(rectifier, jnp.zeros((1, *images.shape[1:])))
    variables = fixture.weights("sd/", shapes, RULES)
    fixture.compare(
        "eval/fiducial_points", rectifier.apply(variables, images, method="fiducial_points")
    )
    fixture.compare("eval/grid", rectifier.apply(variables, images, method="grid"))
    fixture.compare("eval/rectified", channels_first(rectifier.apply(variables, images)))
