"""Features of the momentum branch as the masked term's target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.ssl.reconstruction import feature_targets
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.pretrain_step import loss_options, online_losses
from rcmstr_jax.training.state import PretrainState
from rcmstr_jax.training.step_inputs import draw_masks
from tests.training.tiny_step import make_config, make_plan, make_state, make_step, to_double

SIZES = {"cnn": {"width": 16, "blocks": (0, 0, 0, 1)}, "compact": {"blocks": (1, 0, 0)}}
SIZES["vit"] = {"depth": 1, "heads": 2, "image_width": 16}


@pytest.fixture(scope="module", autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def config_of(encoder: str, **changes: Any) -> Any:
    """The masked term and a contrast of words: nothing else in a step knows of the target."""
    sizes = {"encoder": encoder, "width": 16, "attention": 1, "heads": 4, **SIZES[encoder]}
    return make_config(
        **{f"model.{name}": value for name, value in sizes.items()},
        **{"mim.target": "momentum", "rearrange.enabled": False},
        **{"contrast.hierarchies": ("word",), "contrast.pairs": (), "contrast.relation": False},
        **changes,
    )


def lagging(config: Any) -> PretrainState:
    """A state whose momentum branch is not the online one."""
    state = to_double(make_state(config, build_model(make_plan(config))))
    behind = jax.tree.map(lambda x: 0.8 * x + 0.01, state.momentum_params)
    return state.replace(momentum_params=behind)  # type: ignore[attr-defined]


def inputs_of(plan: PretrainPlan, rows: int) -> dict[str, jax.Array]:
    shape = (rows, *plan.model.image_size, 3)
    images = jax.random.uniform(jax.random.key(7), shape, jnp.float64, -1.0, 1.0)
    assert plan.mask is not None
    mask = draw_masks(plan.mask, jax.random.key(8), jnp.arange(rows))
    return {"view_q": images, "mask": mask}


def differentiate(plan: PretrainPlan, state: PretrainState, inputs: dict[str, jax.Array]) -> Any:
    """The term with its gradients (online, momentum), and what it should compare."""
    model = build_model(plan)
    vectors = jnp.ones((len(inputs["mask"]), 1, 16), jnp.float64)
    queues = {name: queue.keys for name, queue in state.queues.items()}

    def both(params: Any, momentum_params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        momentum = {"params": momentum_params, "batch_stats": state.momentum_batch_stats}
        _, (_, metrics) = online_losses(
            model, params, state, inputs, {"word": vectors}, queues,
            momentum=momentum, **loss_options(plan),
        )  # fmt: skip
        online = {"params": params, "batch_stats": state.batch_stats}
        options = {"train": True, "mutable": ["batch_stats"]}
        (prediction, _), _ = model.apply(online, *inputs.values(), method="reconstruct", **options)
        (whole, _), _ = model.apply(momentum, inputs["view_q"], method="features", **options)
        return metrics["loss/mim"], (prediction, whole)

    compiled = jax.jit(
        jax.value_and_grad(both, argnums=(0, 1), has_aux=True), compiler_options=QUICKLY
    )
    return compiled(state.params, state.momentum_params)


@pytest.mark.parametrize("encoder", ["cnn", "compact", "vit"])
def test_the_term_is_the_error_at_hidden_places(encoder: str) -> None:
    """However it is computed; and the momentum branch takes no gradient."""
    config = config_of(encoder)
    plan, state = make_plan(config), lagging(config)
    assert plan.mask is not None
    inputs = inputs_of(plan, 2)
    (value, (prediction, whole)), (gradient, of_momentum) = differentiate(plan, state, inputs)
    target = feature_targets(whole, plan.mask.grid[1])
    rows = plan.mask.grid[0] if encoder == "vit" else 1
    assert prediction.shape == target.shape == (2, rows, plan.mask.grid[1], 16)
    errors = np.broadcast_to((prediction - target) ** 2, (*inputs["mask"].shape, 16))
    np.testing.assert_allclose(value, errors[np.asarray(inputs["mask"])].mean(), rtol=1e-9)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient["reconstruction"]))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(of_momentum))
    if encoder != "vit":
        packed = make_plan(config_of(encoder, **{"mim.form": "packed"}))
        (same, _), (alike, _) = differentiate(packed, state, inputs)
        np.testing.assert_allclose(same, value, rtol=1e-10)
        chex.assert_trees_all_close(alike, gradient, rtol=1e-8, atol=1e-12)


def test_the_masked_view_itself_may_be_contrasted() -> None:
    config = config_of("vit", **{"mim.coupled": True})
    plan, state = make_plan(config), lagging(config)
    (coupled, _), _ = differentiate(plan, state, inputs_of(plan, 2))
    apart = make_plan(config_of("vit"))
    (value, _), _ = differentiate(apart, state, inputs_of(plan, 2))
    np.testing.assert_allclose(coupled, value, rtol=1e-12)


def test_several_devices_do_what_one_does() -> None:
    config = config_of("cnn")
    plan, state = make_plan(config), lagging(config)
    batch = {"image": inputs_of(plan, 8)["view_q"], "index": jnp.arange(8)}
    one, one_metrics = jax.jit(make_step(config, None), compiler_options=QUICKLY)(state, batch)
    step = parallel.pmap_step(make_step(config, parallel.AXIS))
    many, metrics = parallel.unreplicate(
        step(parallel.replicate(state), parallel.shard_batch(batch))
    )
    assert float(metrics["loss/mim"]) > 0.1
    chex.assert_trees_all_close(metrics, dict(one_metrics), rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(many.opt_state, one.opt_state, rtol=1e-8, atol=1e-14)
    chex.assert_trees_all_close(many.batch_stats, one.batch_stats, rtol=1e-10, atol=1e-12)


def test_features_that_nothing_scales_are_refused() -> None:
    with pytest.raises(ConfigError, match="normalize_targets=False .*set config.mim.normalize"):
        make_plan(config_of("cnn", **{"mim.normalize_targets": False}))
