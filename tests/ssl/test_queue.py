"""Queues overwrite the oldest keys; the momentum branch averages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.ssl.momentum import ema_update, momentum_schedule
from rcmstr_jax.ssl.queue import KeyQueue, enqueue, init_queue, queue_size, sample_keys


def test_first_in_first_out():
    queue = KeyQueue(jnp.arange(6.0)[:, None], jnp.int32(4))
    queue = enqueue(queue, jnp.array([[10.0], [11.0]]))
    np.testing.assert_array_equal(queue.keys[:, 0], [0, 1, 2, 3, 10, 11])
    assert queue.pointer == 0
    queue = enqueue(queue, jnp.array([[12.0], [13.0]]))
    np.testing.assert_array_equal(queue.keys[:, 0], [12, 13, 2, 3, 10, 11])
    assert queue.pointer == 2


def test_size_is_rounded_to_whole_steps():
    assert queue_size(1024, 312) == 936
    with pytest.raises(ValueError, match="contrast.queue_size=100 .* 312 keys .* batch_size"):
        queue_size(100, 312)
    with pytest.raises(ValueError, match="queue of 6 cannot take 4"):
        enqueue(init_queue(jax.random.key(0), 6, 2), jnp.ones((4, 2)))


def test_a_sample_holds_distinct_keys_of_every_image() -> None:
    keys = (100.0 * jnp.arange(40.0)[:, None] + jnp.arange(8.0)[None])[..., None]
    found = np.asarray(sample_keys(jax.random.key(1), keys, 3))[..., 0]
    assert found.shape == (40, 3)
    np.testing.assert_array_equal(found // 100, np.arange(40)[:, None].repeat(3, 1))
    assert all(len(set(row)) == 3 for row in found)
    places = np.bincount((found % 100).astype(int).reshape(-1), minlength=8)
    assert (places > 0).all() and len(np.unique(found % 100, axis=0)) > 20


def test_starts_on_the_unit_sphere():
    queue = init_queue(jax.random.key(0), 100, 16)
    np.testing.assert_allclose(jnp.linalg.norm(queue.keys, axis=1), 1.0, rtol=1e-6)
    assert jnp.linalg.norm(queue.keys.mean(0)) < 0.3


def test_momentum_by_hand():
    updated = ema_update({"a": jnp.array([1.0])}, {"a": jnp.array([3.0])}, 0.75)
    assert updated["a"][0] == 1.5
    schedule = [float(momentum_schedule(jnp.int32(s), 10, 0.9, 1.0)) for s in (0, 5, 10)]
    np.testing.assert_allclose(schedule, [0.9, 0.95, 1.0], rtol=1e-6)
    assert float(momentum_schedule(jnp.int32(7), 10, 0.99, None)) == pytest.approx(0.99)
