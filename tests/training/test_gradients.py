"""Gradient norms part by part: the parts are the loss, and a part alone has the whole gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.gradients import split_loss, term_gradients
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.pretrain_step import make_pretrain_step
from rcmstr_jax.training.state import PretrainState, fresh_state
from tests.training.tiny_step import make_config, make_plan

VIT = {
    "model.encoder": "vit", "model.width": 16, "model.depth": 1, "model.heads": 1,
    "model.image_width": 32, "key_norm": "local", "contrast.queue_size": 128,
}  # fmt: skip


def plan_of(**changes: Any) -> PretrainPlan:
    return make_plan(make_config(**VIT, **changes))


def setting(plan: PretrainPlan) -> tuple[Any, PretrainState, dict[str, jax.Array]]:
    model = build_model(plan)
    state = fresh_state(plan, model, make_optimizer(plan.optimizer)[0])
    shape = (plan.loop.batch_size, *plan.model.image_size, 3)
    images = jax.random.uniform(jax.random.key(3), shape, jnp.float32, -1.0, 1.0)
    return model, state, {"image": images, "index": jnp.arange(shape[0])}


def test_parts_sum_to_the_loss() -> None:
    options = ContrastOptions(alpha=0.2, beta=0.7, pairs=("subword_word",))
    names = [f"{kind}/{term}" for kind in ("nce", "relation_kl") for term in
             ("frame", "subword", "word", "subword_word")]  # fmt: skip
    metrics = {name: jnp.asarray(2.0**i) for i, name in enumerate(names)}
    metrics["loss/mim"] = jnp.asarray(1000.0)
    parts = {name: float(value) for name, value in split_loss(metrics, options, 3.0).items()}
    assert parts == pytest.approx(
        {
            "within": 1 + 2 + 4,
            "relations": 0.2 * (16 + 32 + 64),
            "between": 0.7 * 8 + 0.2 * 128,
            "masked": 3000,
        }
    )
    bare = dataclasses.replace(options, relation=False, beta=0.0, pairs=())
    metrics = {"nce/frame": jnp.ones(()), "nce/subword": jnp.ones(()), "nce/word": jnp.ones(())}
    assert set(split_loss(metrics, bare, 3.0)) == {"within"}


def test_a_part_alone_has_the_gradient_of_the_step() -> None:
    """Of SGD without momentum and decay an update of rate 1 is the gradient."""
    changes = {
        "contrast.relation": False, "contrast.pairs": (), "mim.enabled": False,
        "optimizer.name": "sgd", "optimizer.learning_rate": 1.0, "optimizer.schedule": "constant",
        "optimizer.momentum": 0.0, "optimizer.weight_decay": 0.0, "optimizer.clip": 0.0,
    }  # fmt: skip
    plan = plan_of(**changes)
    model, state, batch = setting(plan)
    norms = jax.jit(term_gradients(plan, model), compiler_options=QUICKLY)(state, batch)
    assert set(norms) == {"gradient/within"}
    step = make_pretrain_step(plan, model, *make_optimizer(plan.optimizer), axis_name=None)
    after, _ = jax.jit(step, compiler_options=QUICKLY)(state, batch)
    moved = jax.tree.map(jnp.subtract, state.params["encoder"], after.params["encoder"])
    np.testing.assert_allclose(norms["gradient/within"], optax.global_norm(moved), rtol=1e-3)


def test_the_whole_method_has_all_parts() -> None:
    plan = plan_of(**{"contrast.hierarchies": ("word",), "contrast.pairs": ("subword_word",)})
    model, state, batch = setting(plan)
    norms = jax.jit(term_gradients(plan, model), compiler_options=QUICKLY)(state, batch)
    parts = ("within", "relations", "between", "masked")
    assert set(norms) == {f"gradient/{name}" for name in parts}
    assert all(np.isfinite(norm) and norm > 0 for norm in norms.values())
