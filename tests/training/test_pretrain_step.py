"""One step of pretraining: what it leaves in the state, on one device and on several.

Steps run in float64, where different orders of summation differ by far less than any mistake; each
is compiled once and shared by the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.models.rcmstr import MOMENTUM_PARTS
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.state import PretrainState, select_parts
from rcmstr_jax.training.step_inputs import draw_inputs
from tests.training.tiny_step import (
    Result,
    make_config,
    make_plan,
    make_state,
    make_step,
    to_double,
)

DEVICES = 4


@pytest.fixture(scope="module", autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    return make_config()


@pytest.fixture(scope="module")
def state(config: ConfigDict) -> PretrainState:
    """A state in mid-run: the momentum branch lags behind, and the step is not the first."""
    fresh = to_double(make_state(config, build_model(make_plan(config))))
    lagging = jax.tree.map(lambda x: jnp.asarray(0.8 * np.asarray(x) + 0.01), fresh.momentum_params)
    return dataclasses.replace(fresh, momentum_params=lagging, step=jnp.ones((), jnp.int32))


@pytest.fixture(scope="module")
def batch(config: ConfigDict) -> dict[str, jax.Array]:
    shape = (config.batch_size, *make_plan(config).model.image_size, 3)
    images = jax.random.uniform(jax.random.key(7), shape, jnp.float64, -1.0, 1.0)
    return {"image": images, "index": jnp.arange(config.batch_size) + config.batch_size}


@pytest.fixture(scope="module")
def step(config: ConfigDict) -> Callable[..., Result]:
    """The compiled step on one device."""
    return jax.jit(make_step(config, None))


@pytest.fixture(scope="module")
def result(
    step: Callable[..., Result], state: PretrainState, batch: dict[str, jax.Array]
) -> Result:
    return step(state, batch)


def test_every_number_of_a_step_is_computed_in_double(result: Result) -> None:
    floats = [x for x in map(np.asarray, jax.tree.leaves(result)) if x.dtype.kind == "f"]
    assert {x.dtype for x in floats} == {np.dtype("float64")}
    assert all(np.isfinite(x).all() for x in floats)


def test_several_devices_do_what_one_does(
    config: ConfigDict, state: PretrainState, batch: dict[str, jax.Array], result: Result
) -> None:
    assert jax.local_device_count() == DEVICES
    parallel_step = parallel.pmap_step(make_step(config, parallel.AXIS))
    many, metrics = parallel_step(parallel.replicate(state), parallel.shard_batch(batch))
    for leaf in jax.tree.leaves((many, metrics)):
        copies = np.asarray(leaf)
        np.testing.assert_array_equal(copies, np.broadcast_to(copies[:1], copies.shape))
    many, metrics = parallel.unreplicate((many, metrics))
    one, one_metrics = result
    # Norms of gradients and updates sum squares of all parameters; all else is a mean of few.
    chex.assert_trees_all_close(metrics, dict(one_metrics), rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(many.queues, one.queues, rtol=0, atol=1e-12)
    chex.assert_trees_all_close(many.batch_stats, one.batch_stats, rtol=1e-10, atol=1e-12)
    chex.assert_trees_all_close(
        many.momentum_batch_stats, one.momentum_batch_stats, rtol=1e-10, atol=1e-12
    )
    chex.assert_trees_all_close(many.momentum_params, one.momentum_params, rtol=1e-12)
    # Adam's first update is the sign of the gradient times the rate: where that vanishes, its sign
    # is noise. The moments are the gradients themselves.
    chex.assert_trees_all_close(many.opt_state, one.opt_state, rtol=1e-8, atol=1e-14)
    assert (int(many.step), int(many.skipped)) == (2, 0)


def test_decoupled_reconstruction_leaves_the_contrast_alone(
    config: ConfigDict, state: PretrainState, batch: dict[str, jax.Array], result: Result
) -> None:
    plain_config = make_config(**{"mim.enabled": False})
    optimizer, _ = make_optimizer(make_plan(plain_config).optimizer)
    params = select_parts(state.params, MOMENTUM_PARTS)
    plain_state = dataclasses.replace(state, params=params, opt_state=optimizer.init(params))
    plain, plain_metrics = jax.jit(make_step(plain_config, None))(plain_state, batch)
    with_mim, metrics = result
    assert set(metrics) - set(plain_metrics) == {"loss/mim"}
    shared = [name for name in metrics if name.split("/")[0] in ("nce", "relation_kl", "accuracy")]
    assert len(shared) == 3 + 5 + 3
    for name in [*shared, "loss/contrast"]:
        assert float(metrics[name]) == float(plain_metrics[name]), name
    for field in ("batch_stats", "momentum_batch_stats", "queues", "momentum_params"):
        chex.assert_trees_all_equal(getattr(with_mim, field), getattr(plain, field))
    weighed = metrics["loss/contrast"] + config.mim.weight * metrics["loss/mim"]
    assert float(metrics["loss"]) == pytest.approx(float(weighed), rel=1e-12)


def test_a_step_that_is_not_finite_changes_counters_only(
    step: Callable[..., Result], state: PretrainState, batch: dict[str, jax.Array], result: Result
) -> None:
    broken = {**batch, "image": batch["image"].at[3, 5, 7].set(jnp.nan)}
    once, metrics = step(state, broken)
    twice, metrics = step(once, broken)
    assert not jnp.isfinite(metrics["loss"])
    counters = {"step": 3, "skipped": 2, "skipped_in_row": 2}
    assert {name: int(getattr(twice, name)) for name in counters} == counters
    for field in dataclasses.fields(PretrainState):
        if field.name not in counters:
            chex.assert_trees_all_equal(getattr(twice, field.name), getattr(state, field.name))
    after, metrics = step(twice, batch)
    assert (int(after.skipped), int(after.skipped_in_row)) == (2, 0)
    assert int(metrics["skipped"]) == 2


def test_momentum_branch_follows_the_average_alone(state: PretrainState, result: Result) -> None:
    online = select_parts(state.params, MOMENTUM_PARTS)
    average = jax.tree.map(
        lambda m, p: 0.9 * np.asarray(m) + 0.1 * np.asarray(p), state.momentum_params, online
    )
    # Where the two terms nearly cancel, their rounding (2**-53 of at most 0.5) stays.
    chex.assert_trees_all_close(result[0].momentum_params, average, rtol=1e-14, atol=1e-16)
    # It has no place in the optimiser: only the online parameters are trained.
    assert set(result[0].params) == {*MOMENTUM_PARTS, "reconstruction"}
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), result[0].params, state.params
    )
    assert all(jax.tree.leaves(moved))


def test_queues_take_the_keys_of_the_step(
    config: ConfigDict, state: PretrainState, batch: dict[str, jax.Array], result: Result
) -> None:
    variables = {"params": result[0].momentum_params, "batch_stats": state.momentum_batch_stats}
    run = jax.jit(
        lambda v, x: build_model(make_plan(config)).apply(v, x, train=True, mutable=["batch_stats"])
    )
    keys, updated = run(variables, batch["image"])
    counts = {"frame": 6, "subword": 4, "word": 1}
    assert make_plan(config).keys_per_image == counts
    assert {name: k.shape[1] for name, k in keys.items()} == counts
    for name, queue in result[0].queues.items():
        added = config.batch_size * counts[name]
        rows = keys[name].reshape(added, -1)
        np.testing.assert_allclose(queue.keys[:added], rows, rtol=0, atol=1e-13)
        np.testing.assert_array_equal(queue.keys[added:], state.queues[name].keys[added:])
        assert int(queue.pointer) == added % queue.keys.shape[0]
    for name, stats in updated["batch_stats"].items():
        chex.assert_trees_all_close(result[0].momentum_batch_stats[name], stats, rtol=1e-12)


def test_reconstruction_leaves_the_same_start(config: ConfigDict) -> None:
    with jax.enable_x64(False):
        plain_config = make_config(**{"mim.enabled": False})
        plain = make_state(plain_config, build_model(make_plan(plain_config)))
        full = make_state(config, build_model(make_plan(config)))
    chex.assert_trees_all_equal(plain.params, select_parts(full.params, MOMENTUM_PARTS))
    chex.assert_trees_all_equal(plain.params, plain.momentum_params)
    for queue in plain.queues.values():
        np.testing.assert_allclose(jnp.linalg.norm(queue.keys, axis=1), 1, rtol=1e-6)
    assert {name: q.keys.shape[0] for name, q in plain.queues.items()} == {
        "frame": 96, "subword": 96, "word": 96,
    }  # fmt: skip


def test_queue_too_small_for_a_step_is_named() -> None:
    with pytest.raises(ConfigError, match="contrast.queue_size=47 .*at least 48"):
        make_plan(make_config(**{"contrast.queue_size": 47}))


def test_inputs_do_not_depend_on_the_number_of_devices() -> None:
    plan = make_plan(make_config(**{"views.enabled": True}))
    with jax.enable_x64(False):
        key = jax.random.key(3)
        images = np.random.default_rng(0).integers(0, 256, (8, 32, 20, 3), np.uint8)
        batch = {"image": images, "index": np.arange(8) + 16}

        def draw(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return draw_inputs(plan, key, batch["image"], batch["index"])

        one = jax.jit(draw)(batch)
        four = parallel.pmap_step(lambda _, b: draw(b))(
            jnp.zeros(DEVICES), parallel.shard_batch(batch)
        )
    assert set(one) == {"view_q", "view_k", "permutation", "mask"}
    for name, whole in one.items():
        joined = np.asarray(four[name]).reshape(whole.shape)
        if whole.dtype == jnp.float32:
            # Values in [-1, 1] after a handful of float32 operations.
            np.testing.assert_allclose(joined, whole, rtol=0, atol=1e-4)
        else:
            np.testing.assert_array_equal(joined, whole)
    assert float(jnp.abs(one["view_q"] - one["view_k"]).mean()) > 0.01
    assert not (one["mask"] == one["mask"][:1]).all()
