"""Counted costs of the masked encoder, and the drawing of a mask: both as the encoder does it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.benchmarking.sparse_costs import cost_table, encoder_layers
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.plotting.sites import draw_sites
from rcmstr_jax.ssl.masking import draw_mask

SMALL = (1, 1, 1, 1)


@pytest.mark.parametrize(("form", "ratio"), [("dense", 0.0), ("packed", 0.7)])
def test_operations_are_those_of_the_program(form: str, ratio: float) -> None:
    # At full width no layer is thin enough to be rearranged, which would multiply some zeros.
    model = ResNet(blocks=SMALL)
    images = jnp.zeros((1, 32, 100, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    options: dict[str, Any] = {}
    if form == "packed":
        hidden = (jnp.arange(100) >= 30).reshape(1, 4, 25)
        options = {"mask": hidden, "form": form, "visible_count": 30}
    counted = matrix_operations(lambda v: model.apply(v, images, **options), variables)
    layers = encoder_layers(512, ratio, form, blocks=SMALL)
    assert counted == sum(layer.operations for layer in layers)


def test_one_layer_by_hand() -> None:
    (dense,) = [layer for layer in encoder_layers() if layer.name == "layer3_0/conv1"]
    assert (dense.inputs, dense.outputs, dense.channels, dense.features) == (104, 104, 256, 512)
    assert dense.operations == 2 * 104 * 9 * 256 * 512
    assert dense.bytes == 4 * 104 * (256 + 512)
    (packed,) = [
        layer for layer in encoder_layers(512, 0.7, "packed") if layer.name == "layer3_0/conv1"
    ]
    # 30 patches visible: 30 sites and, beyond the last column, up to four more.
    assert packed.outputs == 34
    assert packed.bytes == 4 * 34 * (9 + 3 * 9 * 256 + 512)


def test_table_falls_with_the_ratio() -> None:
    header, dense, *packed = cost_table(64, (0.1, 0.5, 0.9))
    operations = [float(row[header.index("GFLOP")]) for row in (dense, *packed)]
    assert operations == sorted(operations, reverse=True)
    assert dense[header.index("of dense")] == "100%"


def test_drawing_shows_the_sites_of_the_encoder() -> None:
    hidden = np.asarray(draw_mask(jax.random.key(0), 1, (4, 25))[0])
    drawing = draw_sites(hidden, (32, 100))
    slots = [int(found) for found in re.findall(r"(\d+) slots", drawing)]
    assert slots == [960, 240, 60, 34, 34, 26]
    computed = {layer.outputs for layer in encoder_layers(64, 0.7, "packed", blocks=SMALL)}
    assert computed == set(slots)
    # The coloured area of the first map: 30 patches of 8 x 4 pixels, 5 units each way.
    areas = []
    for element in ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}rect"):
        if element.get("fill") == "#0072b2" and float(element.get("y", 0)) < 200:
            areas.append(float(element.get("width", 0)) * float(element.get("height", 0)))
    assert sum(areas) == 30 * 8 * 4 * 25


def test_committed_drawing_is_what_the_command_draws(repository: Path) -> None:
    hidden = np.asarray(draw_mask(jax.random.key(0), 1, (4, 25))[0])
    committed = (repository / "docs/sites.svg").read_text(encoding="utf-8")
    assert committed == draw_sites(hidden, (32, 100)), "--what=sparse_costs --drawing"
