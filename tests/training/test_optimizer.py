"""Learning-rate schedules by hand, and optimisers against PyTorch's rule."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcmstr_jax.configs.pretrain import common
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.optimizer import make_optimizer, make_schedule
from rcmstr_jax.training.plan import OptimizerPlan, pretrain_plan


def planned(batch_size: int = 8, total_steps: int = 100, **changes) -> OptimizerPlan:
    """The plan of the common config whose optimiser has these fields."""
    config = common.get_config()
    config.batch_size, config.total_images = batch_size, batch_size * total_steps
    config.optimizer.update(changes)
    return pretrain_plan(config).optimizer


def options(total_steps: int = 10, **changes) -> OptimizerPlan:
    plain = {"learning_rate": 1.0, "reference_batch": 0, "weight_decay": 0.0}
    return planned(total_steps=total_steps, **{**plain, **changes})


def test_rate_scales_linearly_with_the_batch():
    assert planned(32).peak == pytest.approx(0.0015)
    assert planned(256).peak == pytest.approx(0.012)
    assert planned(256, learning_rate=0.3, reference_batch=0).peak == 0.3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, {0: 1.0, 99: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 50: 0.5, 100: 0.0}),
        (
            {"schedule": "cosine", "warmup_images": 160},
            {0: 0.05, 9: 0.5, 19: 1.0, 20: 1.0, 60: 0.5},
        ),
        ({"schedule": "step"}, {0: 1.0, 59: 1.0, 60: 0.1, 79: 0.1, 80: 0.01, 99: 0.01}),
        (
            {"schedule": "step", "warmup_images": 80, "milestones": (0.5,)},
            {0: 0.1, 9: 1.0, 49: 1.0, 50: 0.1},
        ),
    ],
)
def test_schedules_at_chosen_steps(changes, expected):
    schedule = make_schedule(options(total_steps=100, **changes))
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6), step


def run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_adds_decay_to_the_gradient_before_the_momentum():
    optimizer, _ = make_optimizer(
        options(schedule="constant", learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    )
    params = run(optimizer, {"bias": jnp.array([2.0])}, [{"bias": jnp.array([1.0])}] * 2)
    # PyTorch: v = 0.9 v + (g + 0.5 p); p -= 0.1 v.
    first = 2.0 - 0.1 * 2.0
    second = first - 0.1 * (0.9 * 2.0 + 1.0 + 0.5 * first)
    np.testing.assert_allclose(params["bias"], [second], rtol=1e-6)


def test_adamw_decays_kernels_alone_and_apart_from_the_gradient():
    optimizer, _ = make_optimizer(
        options(
            name="adamw", schedule="constant", learning_rate=0.1, weight_decay=0.5,
            decay_vectors=False,
        )
    )  # fmt: skip
    start = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full((1,), 2.0)}
    zero = {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros((1,))}
    params = run(optimizer, start, [zero])
    np.testing.assert_allclose(params["kernel"], [[2.0 - 0.1 * 0.5 * 2.0]], rtol=1e-6)
    np.testing.assert_allclose(params["bias"], [2.0])


def test_clip_limits_the_global_norm():
    optimizer, _ = make_optimizer(options(schedule="constant", momentum=0.0, clip=1.0))
    params = run(optimizer, {"a": jnp.zeros(2)}, [{"a": jnp.array([3.0, 4.0])}])
    np.testing.assert_allclose(params["a"], [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("field", ["name", "schedule"])
def test_unknown_choice_is_named(field):
    with pytest.raises(ConfigError, match=f"optimizer.{field}='nonsense'"):
        options(**{field: "nonsense"})
