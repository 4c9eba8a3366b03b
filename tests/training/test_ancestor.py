"""`ablation.py:RUNG,recipe=ancestor` is the published ancestor's run (METHOD.md 7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcmstr_jax.configs.pretrain import ablation
from rcmstr_jax.models.rcmstr import MOMENTUM_PARTS
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.runtime.config_files import differences
from rcmstr_jax.ssl.rearrange import align_frames, rearrange_images
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from rcmstr_jax.training.pretrain_step import make_pretrain_step
from rcmstr_jax.training.state import PretrainState, fresh_state
from rcmstr_jax.training.step_inputs import draw_inputs
from rcmstr_jax.verification.parity import contrastive
from rcmstr_jax.verification.parity.fixture import Fixture
from rcmstr_jax.verification.parity.networks import branch_network
from tests.training.tiny_step import to_double

ANCESTOR = "inter,recipe=ancestor"


def test_lengths_and_rates() -> None:
    plan = pretrain_plan(ablation.get_config(ANCESTOR))
    assert (plan.loop.batch_size, plan.loop.total_steps) == (32, 859_375)
    optimizer, schedule = make_optimizer(plan.optimizer)
    assert {float(schedule(step)) for step in (0, 1, 600_000, 859_374)} == {0.0015}
    assert plan.momentum.value == 0.999
    assert (plan.momentum.final, plan.momentum.exponent) == (None, 1.0)
    assert plan.mask is None
    assert plan.model.rectifier
    # SGD as PyTorch has it: v = 0.9 v + g + 1e-4 p, p -= 0.0015 v, of vectors too.
    params = {"bias": jnp.asarray([2.0]), "kernel": jnp.asarray([[3.0]])}
    state = optimizer.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    v = jax.tree.map(jnp.zeros_like, params)
    ours = params
    for _ in range(2):
        updates, state = optimizer.update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
        v = jax.tree.map(lambda v, p: 0.9 * v + 1.0 + 1e-4 * p, v, params)
        params = jax.tree.map(lambda p, v: p - 0.0015 * v, params, v)
    for name, value in params.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-6)


def test_what_the_docstring_says_differs_is_all_that_differs() -> None:
    ours, ancestor = (ablation.get_config(spec) for spec in ("inter", ANCESTOR))
    assert {line.split(" was ")[0] for line in differences(ours, ancestor)} == {
        "batch_size",
        "optimizer.schedule",
        "contrast.kl_reduction",
        "rearrange.shared_permutation",
    }


@pytest.mark.parametrize("spec", ["mim", "full", "inter,encoder=vit"])
def test_what_the_ancestor_never_was_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="neither masked images nor a ViT"):
        ablation.get_config(f"{spec},recipe=ancestor")


@pytest.fixture(scope="module")
def plan() -> PretrainPlan:
    """The rung on the mini world's network, made smaller still; batch and rates as published."""
    config = ablation.get_config(f"{ANCESTOR},encoder=mini")
    config.model.width, config.model.blocks, config.model.image_width = 16, (0, 0, 1, 0), 20
    config.model.projector_hidden = config.model.predict_dim = 16
    config.views.enabled = False
    config.contrast.queue_size = 400
    return pretrain_plan(config)


@pytest.fixture(scope="module")
def moved(plan: PretrainPlan) -> Iterator[tuple[PretrainState, PretrainState, dict[str, Any], Any]]:
    """State before and after a step in mid-run, its metrics, and what it drew; in float64."""
    with jax.enable_x64(True):
        model = build_model(plan)
        optimizer, schedule = make_optimizer(plan.optimizer)
        with jax.enable_x64(False):
            fresh = fresh_state(plan, model, optimizer)
        state = to_double(fresh)
        lagging = jax.tree.map(lambda x: 0.8 * x + 0.01, state.momentum_params)
        state = dataclasses.replace(state, momentum_params=lagging, step=jnp.int32(2000))
        shape = (32, *plan.model.image_size, 3)
        batch = {
            "image": jax.random.uniform(jax.random.key(7), shape, jnp.float64, -1.0, 1.0),
            "index": jnp.arange(32) + 64,
        }
        step = make_pretrain_step(plan, model, optimizer, schedule, axis_name=None)
        after, metrics = jax.jit(step, compiler_options=QUICKLY)(state, batch)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        yield state, after, metrics, draw_inputs(plan, key, batch["image"], batch["index"])


def test_a_step_averages_before_it_encodes_and_goes_on_at_the_published_rate(moved: Any) -> None:
    before, after, metrics, _ = moved
    assert float(metrics["learning_rate"]) == pytest.approx(0.0015)
    assert float(metrics["momentum"]) == pytest.approx(0.999)
    for part in MOMENTUM_PARTS:
        expected = jax.tree.map(
            lambda k, q: 0.999 * k + 0.001 * q, before.momentum_params[part], before.params[part]
        )
        jax.tree.map(
            lambda ours, hand: np.testing.assert_allclose(ours, hand, rtol=1e-12),
            after.momentum_params[part],
            expected,
        )


def test_a_step_draws_one_permutation_for_the_batch(moved: Any) -> None:
    permutation = np.asarray(moved[3]["permutation"])
    assert permutation.shape == (16, 4)
    assert len(np.unique(permutation, axis=0)) == 1
    assert sorted(permutation[0]) == [0, 1, 2, 3]


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_a_step_averages_the_divergence_over_queries_and_queue(
    plan: PretrainPlan, moved: Any
) -> None:
    """Word within itself (queue as it was), sub-words with the word (queue with the new keys)."""
    before, after, metrics, drawn = moved
    with jax.enable_x64(True):
        model = build_model(plan)

        def branch(params: Any, stats: Any, images: Any, order: Any = None) -> dict[str, Any]:
            variables = {"params": params, "batch_stats": stats}
            frames, _ = model.apply(
                variables, images, train=True, method="project", mutable=["batch_stats"]
            )
            if order is not None:
                frames = align_frames(frames, order)
            return model.apply(variables, frames, method="predict")

        view, order = drawn["view_q"], drawn["permutation"]
        plain = branch(before.params, before.batch_stats, view)
        shuffled = rearrange_images(view, order)
        aligned = branch(before.params, before.batch_stats, shuffled, order)
        keys = branch(after.momentum_params, before.momentum_batch_stats, drawn["view_k"])

    def divergence(queries: Any, keys: Any, queue: Any) -> float:
        p_q, p_k = (softmax(np.asarray(x) @ np.asarray(queue).T / 0.04) for x in (queries, keys))
        terms = 0.5 * p_k * np.log(p_k / p_q) + 0.5 * p_q * np.log(p_q / p_k)
        return float(terms.mean())

    within = np.concatenate([plain["word"][:, 0], aligned["word"][:, 0]])
    twice = np.concatenate([keys["word"][:, 0]] * 2)
    between = np.asarray(plain["subword"]).reshape(-1, plain["subword"].shape[-1])
    whole = np.repeat(keys["word"][:, 0], 4, axis=0)
    found = {name: float(metrics[f"relation_kl/{name}"]) for name in ("word", "subword_word")}
    assert found["word"] == pytest.approx(
        divergence(within, twice, before.queues["word"].keys), rel=1e-7
    )
    assert found["subword_word"] == pytest.approx(
        divergence(between, whole, after.queues["word"].keys), rel=1e-7
    )
    terms = [name for name in metrics if name.startswith(("nce/", "relation_kl/"))]
    weights = {name: 0.3 if name.startswith("relation_kl/") else 1.0 for name in terms}
    assert len(terms) == 8
    assert float(metrics["loss"]) == pytest.approx(
        sum(weights[name] * float(metrics[name]) for name in terms), rel=1e-12
    )


def test_a_step_keeps_the_statistics_of_each_branch_apart(moved: Any) -> None:
    """The first normalisation: one pass of keys; the plain pass, then the rearranged one."""
    before, after, _, drawn = moved
    with jax.enable_x64(True):

        def means(params: Any, images: Any) -> np.ndarray:
            kernel = params["encoder"]["conv0_1"]["kernel"]
            out = jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return np.asarray(out.mean((0, 1, 2)))

        view, order = drawn["view_q"], drawn["permutation"]
        keys = means(after.momentum_params, drawn["view_k"])
        plain, shuffled = (means(before.params, x) for x in (view, rearrange_images(view, order)))

    def mean(stats: Any) -> np.ndarray:
        return np.asarray(stats["encoder"]["bn0_1"]["mean"])

    kept = 0.9 * mean(before.momentum_batch_stats) + 0.1 * keys
    np.testing.assert_allclose(mean(after.momentum_batch_stats), kept, rtol=1e-9, atol=1e-12)
    online = 0.9 * (0.9 * mean(before.batch_stats) + 0.1 * plain) + 0.1 * shuffled
    np.testing.assert_allclose(mean(after.batch_stats), online, rtol=1e-9, atol=1e-12)


def test_the_recipe_gives_the_golden_loss(golden_dir: Path, x64: None) -> None:
    """The ancestor's own network, queues, permutation and loss, under the recipe's options."""
    recipe = pretrain_plan(ablation.get_config(ANCESTOR))
    fixture = Fixture(golden_dir / contrastive.FILE)
    for name, value in (
        ("temperature", recipe.contrast.temperature),
        ("relation_temperature", recipe.contrast.relation_temperature),
    ):
        assert float(fixture.raw(name)) == pytest.approx(value, rel=1e-6)
    assert recipe.rearrange is not None
    order = fixture.raw("permutation")
    assert order.shape == (recipe.rearrange.group * recipe.rearrange.blocks,)
    images = fixture.images("im_q"), fixture.images("im_k")
    momentum = float(fixture.raw("momentum"))  # the figures' own, further from 1
    network = branch_network(fixture, "sd/encoder_q.", recipe.subwords)
    run = contrastive.Run(network, images, recipe.rearrange.blocks, momentum)
    start = contrastive._start_state(fixture, run)
    permutation = contrastive._permutation(fixture, "permutation", order, images[0].shape[0])

    def total(state: Any) -> Any:
        after, keys = run.encode(state)
        contents = {name: queue.keys for name, queue in after.queues.items()}
        inputs = {"view_q": images[0], "permutation": permutation}
        return contrastive.online_losses(
            network, state.params, state, inputs, keys, contents,
            contrast=recipe.contrast, blocks=run.blocks,
        )[0]  # fmt: skip

    found = jax.jit(total, compiler_options=QUICKLY)(start)
    assert float(found) == pytest.approx(float(fixture.raw("total_loss_mean")), rel=1e-7)
