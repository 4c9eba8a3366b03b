"""Another batch size changes speed and rate in proportion; all else stays, image by image."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import ablation, compact, mim, mini, rcmstr_cnn, rcmstr_vit
from rcmstr_jax.ssl.momentum import momentum_schedule
from rcmstr_jax.training.optimizer import make_schedule
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan

RECIPES: dict[str, Callable[[], ConfigDict]] = {
    "cnn": rcmstr_cnn.get_config,
    "cnn step": lambda: rcmstr_cnn.get_config("step"),
    "vit": rcmstr_vit.get_config,
    "mini": mini.get_config,
    "mim": mim.get_config,
    "compact": compact.get_config,
    "ablation": lambda: ablation.get_config("inter"),
}
SHARES = np.asarray([0.05, 0.2, 0.4, 0.55, 0.7, 0.95])


def rates(plan: PretrainPlan) -> np.ndarray:
    """Learning rate per image of a batch, at shares of the run."""
    schedule = make_schedule(plan.optimizer)
    steps = (SHARES * plan.loop.total_steps).astype(int)
    return np.asarray([float(schedule(step)) for step in steps]) / plan.loop.batch_size


def kept_after(plan: PretrainPlan, images: int) -> np.ndarray:
    """Share of the average that is left after so many images, at shares of the run."""
    steps = (SHARES * plan.loop.total_steps).astype(int)
    momentum = plan.momentum
    values = [
        momentum_schedule(
            jnp.asarray(step), plan.loop.total_steps, momentum.value, momentum.final,
            momentum.exponent,
        )
        for step in steps
    ]  # fmt: skip
    return np.asarray(values, np.float64) ** (images / plan.loop.batch_size)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("factor", [0.5, 2])
def test_another_batch_size_keeps_the_recipe(name: str, factor: float) -> None:
    config = RECIPES[name]()
    whole = pretrain_plan(config)
    config.batch_size = int(config.batch_size * factor)
    plan = pretrain_plan(config)
    seen = [p.loop.total_steps * p.loop.batch_size for p in (whole, plan)]
    largest = max(whole.loop.batch_size, plan.loop.batch_size)
    assert abs(seen[0] - seen[1]) <= largest  # whole steps
    warmups = [p.optimizer.warmup_steps * p.loop.batch_size for p in (whole, plan)]
    assert abs(warmups[0] - warmups[1]) <= largest
    assert plan.optimizer.peak == pytest.approx(factor * whole.optimizer.peak)
    np.testing.assert_allclose(rates(plan), rates(whole), rtol=0.01)
    images = 8192
    np.testing.assert_allclose(kept_after(plan, images), kept_after(whole, images), rtol=1e-3)


def test_lengths_of_the_shipped_recipes_at_their_own_batch_size() -> None:
    """METHOD.md 7: five epochs of 5.5 M, ten for the ViT; 0.999 at 32 images is 0.992 at 256."""
    cnn, vit = pretrain_plan(RECIPES["cnn"]()), pretrain_plan(RECIPES["vit"]())
    assert (cnn.loop.total_steps, vit.loop.total_steps) == (107_421, 53_710)
    assert vit.optimizer.warmup_steps == 5000
    steps = jnp.asarray(0)
    assert float(
        momentum_schedule(steps, 1, cnn.momentum.value, None, cnn.momentum.exponent)
    ) == pytest.approx(0.99203, abs=1e-5)
    assert (vit.momentum.value, vit.momentum.final, vit.momentum.exponent) == (0.99, 1.0, 1.0)
    for name, total, warmup in (("mini", 2400, 50), ("mim", 1200, 50), ("compact", 100_000, 1000)):
        plan = pretrain_plan(RECIPES[name]())
        assert (plan.loop.total_steps, plan.optimizer.warmup_steps) == (total, warmup)
        assert plan.momentum.exponent == 1.0
        assert plan.optimizer.peak == pytest.approx(2e-3)
