"""`tps.npz`: the thin-plate-spline rectifier in inference mode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.interop.architectures import count, template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import TPS
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.verification.parity.encoder import SAFETY, channels_first, round_differently
from rcmstr_jax.verification.parity.fixture import Fixture, relative_error

FILE = "tps.npz"
POINTS = "eval/fiducial_points"
RULES = under("(?:params|batch_stats)/", "", TPS)


def check(fixture: Fixture) -> None:
    """Fiducial points, grid and rectified images."""
    images = fixture.images("image")
    conv = "sd/LocalizationNetwork.conv."
    # Convolutions, norms, activations and poolings are counted together, four to a stage.
    stages = count(fixture.names(conv), r".*\.conv\.(\d+)\.running_var")
    height, width = fixture.shape("eval/rectified")[2:]
    rectifier: Any = TpsRectifier(
        fiducials=fixture.shape("sd/LocalizationNetwork.localization_fc2.weight")[0] // 2,
        size=(height, width),
        channels=tuple(fixture.shape(f"{conv}{4 * i}.weight")[0] for i in range(stages)),
        hidden=fixture.shape("sd/LocalizationNetwork.localization_fc1.0.weight")[0],
    )
    shapes = template(rectifier, jnp.zeros((1, *images.shape[1:])))
    variables = fixture.weights("sd/", shapes, RULES)

    @jax.jit
    def rectify(images: Array) -> dict[str, Array]:
        methods = {"fiducial_points": "fiducial_points", "grid": "grid", "rectified": "__call__"}
        return {
            name: rectifier.apply(variables, images, method=method)
            for name, method in methods.items()
        }

    ours = rectify(images)
    fixture.compare(POINTS, ours["fiducial_points"])
    if fixture.double:
        bias = np.asarray(variables["params"]["fc2"]["bias"])
        moved = rectify(round_differently(images))["fiducial_points"]
        _compare_small_parts(fixture, bias, ours["fiducial_points"], moved)
    fixture.compare("eval/grid", ours["grid"])
    fixture.compare("eval/rectified", channels_first(ours["rectified"]))


def _compare_small_parts(fixture: Fixture, bias: np.ndarray, points: Array, moved: Array) -> None:
    """The points without the bias of the last layer, and without their mean over the images.

    With random weights the points hardly depend on the image: all convolutions could be wrong and
    the points still be right to eight digits. What remains without the constant part tells.
    """
    fixture.compare(POINTS, points, centre=bias.reshape(points.shape[1:]), label=" - bias")
    if len(points) > 1:
        mean = np.mean(fixture.raw(POINTS), axis=0)
        rounding = relative_error(np.asarray(moved) - mean, np.asarray(points) - mean)
        fixture.compare(POINTS, points, centre=mean, label=" - mean", rounding=SAFETY * rounding)
