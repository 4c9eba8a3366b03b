"""A batch in parts, one after the other, against the batch as a whole; in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.runtime import parallel
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.state import PretrainState
from tests.training.tiny_step import (
    Result,
    make_config,
    make_plan,
    make_state,
    make_step,
    to_double,
)

VIT = {
    "model.encoder": "vit",
    "model.image_width": 16,
    "model.depth": 1,
    "model.heads": 1,
    "contrast.hierarchies": ("subword", "word"),
    "contrast.pairs": ("subword_word",),
}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def start(config: ConfigDict) -> PretrainState:
    """A state whose momentum branch lags behind, so that queries and keys differ."""
    fresh = to_double(make_state(config, build_model(make_plan(config))))
    lagging = jax.tree.map(lambda x: 0.8 * x + 0.01, fresh.momentum_params)
    return dataclasses.replace(fresh, momentum_params=lagging)


def images(config: ConfigDict) -> dict[str, jax.Array]:
    shape = (config.batch_size, *make_plan(config).model.image_size, 3)
    return {
        "image": jax.random.uniform(jax.random.key(7), shape, jnp.float64, -1.0, 1.0),
        "index": jnp.arange(config.batch_size),
    }


def one_device(config: ConfigDict, state: PretrainState) -> Result:
    return jax.jit(make_step(config, None))(state, images(config))


def assert_same_step(many: Result, one: Result) -> None:
    """Equal up to the order of summation; Adam's moments stand for the gradients."""
    (state, metrics), (expected, expected_metrics) = many, one
    chex.assert_trees_all_close(dict(metrics), dict(expected_metrics), rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(state.queues, expected.queues, rtol=0, atol=1e-12)
    chex.assert_trees_all_close(state.opt_state, expected.opt_state, rtol=1e-8, atol=1e-14)
    chex.assert_trees_all_close(state.momentum_params, expected.momentum_params, rtol=1e-12)
    for name in ("batch_stats", "momentum_batch_stats"):
        chex.assert_trees_all_close(
            getattr(state, name), getattr(expected, name), rtol=1e-10, atol=1e-12
        )


def test_vit_in_four_parts_learns_what_the_large_batch_teaches() -> None:
    whole = make_config(**VIT)
    state = start(whole)
    assert_same_step(
        one_device(make_config(**VIT, accumulation=4), state), one_device(whole, state)
    )


@pytest.mark.slow
def test_cnn_in_four_parts_is_four_devices_with_local_statistics() -> None:
    """Among them the running statistics: each part is normalised by itself, and they average."""
    changes: dict[str, Any] = {"key_norm": "local", "model.blocks": (0, 0, 0, 0)}
    config = make_config(**changes)
    state = start(config)
    parts = one_device(make_config(**changes, accumulation=4), state)
    step = parallel.pmap_step(make_step(config, parallel.AXIS))
    devices = step(parallel.replicate(state), parallel.shard_batch(images(config)))
    assert_same_step(parts, parallel.unreplicate(devices))
    moved = np.concatenate(
        [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (parts[0].params, state.params)),
                                         strict=True)]
    )  # fmt: skip
    assert (moved != 0).mean() > 0.9
