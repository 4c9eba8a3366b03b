"""A frozen rectifier from another workdir enters a fresh state, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.pretrain import rcmstr_cnn
from rcmstr_jax.interop.workdir import write_workdir
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.plan import pretrain_plan
from rcmstr_jax.training.pretraining import with_rectifier
from rcmstr_jax.training.state import PretrainState

FLAT = {
    "frozen_params/rectifier/fc1/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "batch_stats/rectifier/bn0/mean": np.array([1.0, 2.0], np.float32),
    "batch_stats/encoder/bn0/mean": np.array([7.0], np.float32),
}


def fresh(inputs: int = 2) -> PretrainState:
    zero = jnp.zeros((), jnp.int32)
    stats = {
        "encoder": {"bn0": {"mean": jnp.zeros(1)}},
        "rectifier": {"bn0": {"mean": jnp.ones(2)}},
    }
    return PretrainState(
        step=zero,
        params={"encoder": {"kernel": jnp.ones(3)}},
        frozen_params={"rectifier": {"fc1": {"kernel": jnp.zeros((inputs, 3))}}},
        momentum_params={"encoder": {"kernel": jnp.ones(3)}},
        batch_stats=stats,
        momentum_batch_stats=stats,
        opt_state=(),
        queues={},
        key_data=jnp.zeros(2, jnp.uint32),
        skipped=zero,
        skipped_in_row=zero,
    )


@pytest.fixture
def workdir(tmp_path: Path) -> str:
    (tmp_path / "tps").mkdir()
    write_workdir(tmp_path / "tps", FLAT, rcmstr_cnn.get_config(), origin="test")
    return str(tmp_path / "tps")


def test_rectifier_is_taken_and_all_else_stays(workdir: str) -> None:
    before = fresh()
    after = with_rectifier(before, workdir)
    kernel = after.frozen_params["rectifier"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, FLAT["frozen_params/rectifier/fc1/kernel"])
    for stats in (after.batch_stats, after.momentum_batch_stats):
        np.testing.assert_array_equal(stats["rectifier"]["bn0"]["mean"], [1, 2])
        np.testing.assert_array_equal(stats["encoder"]["bn0"]["mean"], [0])
    chex.assert_trees_all_equal(after.params, before.params)
    chex.assert_trees_all_equal(after.momentum_params, before.momentum_params)
    assert with_rectifier(before, "") is before


def test_what_does_not_fit_is_named(workdir: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fc1/kernel is \(2, 3\), needs \(5, 3\).*--kind=tps"):
        with_rectifier(fresh(inputs=5), workdir)
    with pytest.raises(ConfigError, match="config.model.rectifier_from=.*absent"):
        with_rectifier(fresh(), str(tmp_path / "absent"))
    config = rcmstr_cnn.get_config()
    config.model.rectifier_from, config.model.rectifier = workdir, False
    with pytest.raises(ConfigError, match="set config.model.rectifier=True"):
        pretrain_plan(config)
