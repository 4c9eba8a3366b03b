"""The gauge of the shortcut through colours: whole where views keep them, chance where not."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.runtime import parallel
from rcmstr_jax.training import shortcut
from rcmstr_jax.training.plan import pretrain_plan
from rcmstr_jax.training.shortcut import colour_statistics, found_by_colour, shortcut_gauge
from rcmstr_jax.training.state import PretrainState


def test_statistics_by_hand() -> None:
    image = np.zeros((1, 32, 16, 3))
    image[:, :, 2:4, 1] = 1.0  # the second strip, one channel
    image[:, :16, 14:, 2] = 1.0  # half of the last strip
    found = colour_statistics(image).reshape(8, 2, 3)
    assert found.shape == (8, 2, 3)
    np.testing.assert_array_equal(found[1, 0], [0, 1, 0])
    np.testing.assert_array_equal(found[7], [[0, 0, 0.5], [0, 0, 0.5]])
    assert np.count_nonzero(found) == 3


def test_colours_that_views_keep_find_the_positive_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    colours = rng.uniform(-1, 1, (128, 1, 1, 3))
    noise = [0.1 * rng.normal(size=(128, 32, 16, 3)) for _ in range(2)]
    assert found_by_colour(colours + noise[0], colours + noise[1]) > 0.9
    # A linear change of all colours is learnt from the other images.
    assert found_by_colour(colours + noise[0], -0.5 * colours[..., ::-1] + noise[1]) > 0.9
    other = rng.uniform(-1, 1, (128, 1, 1, 3))
    assert found_by_colour(colours + noise[0], other + noise[1]) < 0.1


def test_the_gauge_is_of_the_views_of_the_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(plan: Any, key: Any, images: Any, indices: Any) -> dict[str, Any]:
        del plan
        places = indices.astype(jnp.float32)[:, None, None, None]
        views = images.astype(jnp.float32) / 255 + places
        return {
            "view_q": views,
            "view_k": views + jax.random.uniform(key, (len(images), 1, 1, 3), jnp.float32),
        }

    monkeypatch.setattr(shortcut, "draw_inputs", shifted)
    zero = jnp.zeros((), jnp.int32)
    state = PretrainState(
        step=zero, params={}, frozen_params={}, momentum_params={}, batch_stats={},
        momentum_batch_stats={}, opt_state=(), queues={}, skipped=zero, skipped_in_row=zero,
        key_data=jax.random.key_data(jax.random.key(0)),
    )  # fmt: skip
    devices, first = jax.local_device_count(), 8
    images = np.random.default_rng(0).integers(0, 256, (first * devices, 8, 16, 3), np.uint8)
    batch = parallel.shard_batch({"image": images, "index": np.arange(len(images))})
    plan = pretrain_plan(mini.get_config("test"))
    found = shortcut_gauge(plan)(parallel.replicate(state), batch)
    key = jax.random.fold_in(jax.random.key(0), 0)
    drawn = jax.jit(functools.partial(shifted, plan))(
        key, jnp.asarray(images[:first]), jnp.arange(first)
    )
    views = [np.asarray(drawn[name]) for name in ("view_q", "view_k")]
    assert found == {"shortcut/colour": found_by_colour(*views)}
