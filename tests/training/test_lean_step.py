"""Forms of the step that save memory and program: equal to the objective differentiated whole."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.target import compiling_for
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.pretrain_step import (
    add_keys,
    encode_keys,
    loss_options,
    online_gradients,
    online_losses,
)
from rcmstr_jax.training.step_inputs import draw_inputs
from tests.training.tiny_step import make_config, make_plan, make_state, to_double

SMALL = {
    "contrast.hierarchies": ("subword", "word"),
    "contrast.pairs": ("subword_word",),
}
VIT = {"model.encoder": "vit", "model.image_width": 16, "model.depth": 2, "model.heads": 1}
CNN = {"model.blocks": (0, 0, 0, 0), "key_norm": "local"}


@pytest.mark.parametrize(
    ("changes", "coupled"), [(VIT, False), (CNN, False), (VIT, True)], ids=["vit", "cnn", "coupled"]
)
def test_gradients_and_metrics_are_those_of_the_whole(
    changes: dict[str, Any], coupled: bool, x64: None
) -> None:
    config = make_config(**SMALL, **changes, **{"mim.coupled": coupled})
    plan = make_plan(config)
    model = build_model(plan)
    state = to_double(make_state(config, model))
    shape = (config.batch_size, *plan.model.image_size, 3)
    images = jax.random.uniform(jax.random.key(7), shape, jnp.float64, -1, 1)
    key = state.step_key
    inputs = draw_inputs(plan, key, images, jnp.arange(len(images)))
    variables = {"params": state.momentum_params, "batch_stats": state.momentum_batch_stats}
    keys, _, _ = encode_keys(model, variables, inputs["view_k"])
    after = {name: queue.keys for name, queue in add_keys(plan, key, state.queues, keys).items()}

    def whole(params: Any) -> Any:
        return jax.grad(
            lambda params: online_losses(
                model, params, state, inputs, keys, after, **loss_options(plan)
            ),
            has_aux=True,
        )(params)

    def apart(params: Any) -> Any:
        return online_gradients(
            plan, model, dataclasses.replace(state, params=params), inputs, keys, after
        )

    def run(function: Any, platform: str) -> Any:
        with compiling_for(platform):
            return jax.jit(lambda p: function(p), compiler_options=QUICKLY)(state.params)

    expected = run(whole, "cpu")
    for platform in ("cpu", "gpu"):
        chex.assert_trees_all_close(run(apart, platform), expected, rtol=1e-8, atol=1e-11)
