"""Drop path: drawn for an image, scaled, in the passes that learn; refused where it has none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import common, finetune_transformer
from rcmstr_jax.models.vit import VisionTransformer
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.plan import evaluation_plan
from rcmstr_jax.training.step_inputs import draw_branches, draw_inputs
from tests.training.tiny_step import make_config, make_plan

RATE, DEPTH = 0.5, 5


def test_branches_are_keyed_by_the_image_and_keep_the_mean() -> None:
    key, places = jax.random.key(0), jnp.arange(4000)
    drawn = np.asarray(draw_branches(key, places, DEPTH, RATE))
    assert drawn.shape == (4000, DEPTH, 2)
    np.testing.assert_array_equal(draw_branches(key, places[70:72], DEPTH, RATE), drawn[70:72])
    kept = 1 - RATE * np.arange(DEPTH) / (DEPTH - 1)
    for block, share in enumerate(kept):
        assert set(np.unique(drawn[:, block]).round(6)) <= {0.0, np.float32(1 / share).round(6)}
    np.testing.assert_allclose(drawn.mean((0, 2)), 1, atol=0.05)
    assert (drawn[:, 0] == 1).all()
    assert abs(np.corrcoef(drawn[:, -1].T)[0, 1]) < 0.05  # attention and MLP fall apart


def test_a_dropped_branch_adds_nothing() -> None:
    """A block without both is none; blocks that are kept are those of a network without."""
    images = jax.random.uniform(jax.random.key(0), (2, 4, 8, 3), minval=-1, maxval=1)
    two, one = (VisionTransformer(width=8, depth=depth, heads=1) for depth in (2, 1))
    variables = jax.jit(two.init)(jax.random.key(1), images)
    less = {k: v for k, v in variables["params"].items() if k != "block_1"}
    kept = jnp.ones((2, 2, 2)).at[1, 1].set(0.0)
    found, _ = two.apply(variables, images, branches=kept)
    np.testing.assert_array_equal(found[0], two.apply(variables, images)[0][0])
    np.testing.assert_array_equal(found[1], one.apply({"params": less}, images)[0][1])


def test_pretraining_draws_for_every_pass_by_itself() -> None:
    sizes = {"encoder": "vit", "width": 16, "depth": 4, "heads": 2, "image_width": 32}
    changes = {f"model.{name}": value for name, value in sizes.items()}
    changes |= {"key_norm": "local", "contrast.queue_size": 128}
    plan = make_plan(make_config(**changes, drop_path=0.8))
    images = jnp.zeros((8, 32, 32, 3))
    drawn = draw_inputs(plan, jax.random.key(1), images, jnp.arange(8))["branches"]
    assert drawn.shape == (8, 3, 4, 2)
    assert len(np.unique(np.asarray(drawn), axis=0)) > 4
    assert not (drawn[:, 0] == drawn[:, 1]).all() and not (drawn[:, 1] == drawn[:, 2]).all()
    assert "branches" not in draw_inputs(
        make_plan(make_config(**changes)), jax.random.key(1), images, jnp.arange(8)
    )


def test_where_there_is_nothing_to_drop() -> None:
    with pytest.raises(ConfigError, match=r"config.drop_path=0.1 belongs to a ViT.*'cnn'"):
        make_plan(make_config(drop_path=0.1))
    config = common.get_config()
    config.train.drop_path = 0.1
    with pytest.raises(ConfigError, match=r"train.drop_path=0.1 with config.protocol=frozen"):
        evaluation_plan(config)
    published = evaluation_plan(finetune_transformer.get_config("published"))
    whole = evaluation_plan(finetune_transformer.get_config())
    assert (published.train.drop_path, whole.train.drop_path) == (0.1, 0.0)
    assert published.train.passes == whole.train.passes == 10.0
