"""No library warns where nothing is wrong."""

from __future__ import annotations

import jax.numpy as jnp

from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.provenance import DataPosition


def test_checkpoints_are_written_and_read_without_a_warning(tmp_path, caplog, recwarn) -> None:
    state, position = {"a": jnp.ones(3)}, DataPosition("none", 0, 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {"x": 1}, position)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.read()[0] == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == []
    assert [str(warning.message) for warning in recwarn] == []
