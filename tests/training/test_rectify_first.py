"""Whether images are rectified before or after they exchange blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.ssl.queue import KeyQueue
from rcmstr_jax.training.plan import pretrain_plan
from rcmstr_jax.training.pretrain_step import online_losses
from rcmstr_jax.training.state import PretrainState

ENCODED: list[tuple[np.ndarray, bool]] = []


class Mirrors(RCMSTR):
    """Stands for the network: its rectifier mirrors, and what it encodes is kept."""

    def apply(  # type: ignore[override]
        self, _: Any, x: jax.Array, *, method: str, mutable: Any, train: bool = False,
        rectified: bool = False,
    ) -> tuple[Any, dict[str, Any]]:  # fmt: skip
        del mutable, train
        if method == "rectify":
            return x[:, :, ::-1], {}
        if method == "project":
            ENCODED.append((np.asarray(x), rectified))
            return x.mean((1, 3))[..., None], {}
        return {"word": jnp.ones((len(x), 1, 4)) / 2}, {}


@pytest.mark.parametrize("first", [False, True])
def test_blocks_are_those_of_rectified_images(first: bool) -> None:
    images = jnp.arange(2 * 32 * 8 * 3, dtype=jnp.float32).reshape(2, 32, 8, 3)
    permutation = jnp.asarray([[2, 1, 0, 3]], jnp.int32)
    unit = jnp.ones((4, 4)) / 2
    zero = jnp.zeros((), jnp.int32)
    state = PretrainState(
        step=zero, params={}, frozen_params={}, momentum_params={}, batch_stats={},
        momentum_batch_stats={}, opt_state=(), queues={"word": KeyQueue(unit, zero)},
        key_data=jax.random.key_data(jax.random.key(0)), skipped=zero, skipped_in_row=zero,
    )  # fmt: skip
    ENCODED.clear()
    part: Any = None
    model = Mirrors(encoder=part, projector=part, predictors=part)
    online_losses(
        model, {}, state, {"view_q": images, "permutation": permutation},
        {"word": jnp.ones((2, 1, 4)) / 2}, {"word": unit},
        contrast=ContrastOptions(("word",), (), relation=False), blocks=2, rectify_first=first,
    )  # fmt: skip
    (plain, before), (shuffled, after) = ENCODED
    np.testing.assert_array_equal(plain, images)
    assert (before, after) == (False, first)
    whole = np.asarray(images[:, :, ::-1] if first else images)
    left, right = whole[:, :, :4], whole[:, :, 4:]
    rows = (left[1], right[0]), (left[0], right[1])
    expected = [np.concatenate(row, axis=1) for row in rows]
    np.testing.assert_array_equal(shuffled, np.stack(expected))


def test_nothing_to_do_first_is_a_mistake() -> None:
    config = mini.get_config("test")
    config.model.rectify_first = True
    with pytest.raises(ConfigError, match="rectify_first=True without config.model.rectifier"):
        pretrain_plan(config)
