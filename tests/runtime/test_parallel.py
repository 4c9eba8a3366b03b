"""Rows of several devices: dealt anew, gathered once, and back in their order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.runtime import parallel


@pytest.mark.parametrize("dealt", [False, True])
def test_gathering_gives_own_rows_and_all_rows_in_global_order(dealt: bool) -> None:
    devices, key = jax.local_device_count(), jax.random.key(3)
    rows = np.arange(6.0 * devices, dtype=np.float32).reshape(2 * devices, 3)

    def step(state: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        mine, order = batch["rows"], None
        if dealt:
            mine, order = parallel.deal_rows(mine, key, parallel.AXIS)
        return state, mine, *parallel.gather_rows(mine, parallel.AXIS, order)

    batch = parallel.shard_batch({"rows": rows})
    _, held, own, everybody = parallel.pmap_step(step)(jnp.zeros(devices), batch)
    np.testing.assert_array_equal(np.concatenate(np.asarray(own)), rows)
    for copy in np.asarray(everybody):
        np.testing.assert_array_equal(copy, rows)
    # Each row lies on one device meanwhile; where they were dealt, not all on their own.
    between = np.concatenate(np.asarray(held))
    np.testing.assert_array_equal(np.sort(between, axis=0), rows)
    assert np.array_equal(between, rows) != dealt


def test_without_an_axis_rows_stay_where_they_are() -> None:
    rows = jnp.arange(6.0).reshape(2, 3)
    mine, order = parallel.deal_rows(rows, jax.random.key(3), None)
    assert order is None
    for found in (mine, *parallel.gather_rows(mine, None, order)):
        np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("rows", [np.arange(14).reshape(7, 2), [np.array([i]) for i in range(7)]])
def test_whole_batches_hold_every_row_once_and_one_shape(rows: Any) -> None:
    batches = list(parallel.whole_batches(rows, 3))
    assert [count for _, count in batches] == [3, 3, 1]
    assert {batch.shape for batch, _ in batches} == {(3, len(rows[0]))}
    np.testing.assert_array_equal(np.concatenate([b[:n] for b, n in batches]), np.stack(rows))
    assert list(parallel.whole_batches(rows[:0], 3)) == []
