"""The `views` section of a config: what a plan makes of it, and what a step then draws."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.augment import ColourJitter, ViewRanges, make_view
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.plan import PretrainPlan, ViewPlan, pretrain_plan
from rcmstr_jax.training.step_inputs import VIEW_K, VIEW_Q, draw_inputs


def _config(**changes: object) -> ConfigDict:
    config = mini.get_config("test")
    config.update_from_flattened_dict({f"views.{name}": value for name, value in changes.items()})
    return config


def test_sections_are_the_defaults_of_the_dataclasses() -> None:
    assert pretrain_plan(_config()).views == ViewPlan(1, 5, ViewRanges(), None)
    assert pretrain_plan(_config(enabled=False)).views is None
    changes = {"min_ops": 0, "max_ops": 2, "ranges.blur": (0.5, 0.6), "colours": True}
    found = pretrain_plan(_config(**changes, **{"colour.grey": 0.1})).views
    assert found == ViewPlan(0, 2, ViewRanges(blur=(0.5, 0.6)), ColourJitter(grey=0.1))


def _program(plan: PretrainPlan, draw: object) -> str:
    images = jnp.zeros((2, *plan.model.image_size, 3), jnp.float32)
    return str(jax.make_jaxpr(draw)(jax.random.key(0), images, jnp.arange(2)))  # type: ignore[arg-type]


def test_off_is_the_published_program() -> None:
    """As `make_view` is called without ranges and colours, bit for bit."""
    plan = dataclasses.replace(pretrain_plan(_config(max_ops=4)), rearrange=None, mask=None)

    def published(key: jax.Array, images: jax.Array, indices: jax.Array) -> dict[str, jax.Array]:
        return {
            name: make_view(jax.random.fold_in(key, number), images, indices=indices, max_ops=4)
            for name, number in (("view_q", VIEW_Q), ("view_k", VIEW_K))
        }

    def ours(plan: PretrainPlan) -> str:
        return _program(plan, lambda *arguments: draw_inputs(plan, *arguments))

    assert ours(plan) == _program(plan, published)
    coloured = pretrain_plan(_config(max_ops=4, colours=True)).views
    assert ours(dataclasses.replace(plan, views=coloured)) != ours(plan)


def test_colours_reach_both_views_and_nothing_else() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 100, 3), np.uint8)

    def draw(colours: bool) -> dict[str, jax.Array]:
        config = _config(colours=colours, **{"colour.grey": 1.0, "colour.invert": 0.0})
        plan = pretrain_plan(config)
        return draw_inputs(plan, jax.random.key(0), jnp.asarray(images), jnp.arange(2))

    off, on = draw(False), draw(True)
    for name in ("view_q", "view_k"):
        channels = np.asarray(on[name])
        np.testing.assert_allclose(channels, channels[..., :1].repeat(3, -1), atol=1e-6)
        assert np.ptp(np.asarray(off[name]), axis=-1).max() > 0.1
    for name in ("permutation", "mask"):
        np.testing.assert_array_equal(off[name], on[name])


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({"min_ops": 6}, ["views.min_ops=6", "views.max_ops=5"]),
        ({"min_ops": -1}, ["views.min_ops=-1", "between 0 and 7"]),
        ({"ranges.crop_rows": (0.0, 0.6)}, ["views.ranges.crop_rows = (0.0, 0.6)", "<= 0.45"]),
        ({"ranges.blur": (1.5, 0.5)}, ["views.ranges.blur = (1.5, 0.5)", "low <= high"]),
        ({"colour.grey": 1.5}, ["views.colour.grey = 1.5", "from 0 to 1"]),
        ({"colour.gain": (1.4, 0.6)}, ["views.colour.gain = (1.4, 0.6)", "low <= high"]),
    ],
)
def test_mistakes_name_the_field_of_the_config(
    changes: dict[str, object], answers: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain_plan(_config(**changes))
    message = str(caught.value)
    assert message.startswith("config.views.")
    assert all(answer in message for answer in answers)
