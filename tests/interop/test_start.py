"""Files as the beginning of pretraining: found by their names, strict, and never half taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rcmstr_jax
from rcmstr_jax.interop.files import write_arrays
from rcmstr_jax.interop.kinds import KINDS, export_checkpoint
from rcmstr_jax.interop.start import read_start
from rcmstr_jax.interop.torch_weights import flatten
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.state import PretrainState
from rcmstr_jax.training.warm_start import warm_start
from tests.interop.test_kinds import workdir_arrays


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_file_of_every_kind_is_known_by_its_names(kind: str, tmp_path: Path) -> None:
    flat = workdir_arrays(kind)
    write_arrays(tmp_path / "published.npz", export_checkpoint(KINDS[kind], flat))
    found = flatten(read_start(str(tmp_path / "published.npz")).variables)
    wanted = {
        name.replace("frozen_params", "params"): array
        for name, array in flat.items()
        if not name.startswith(("momentum_", "queues"))
    }
    assert found.keys() - {"batch_stats"} == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def toy_state(params: Any) -> PretrainState:
    zero = jnp.zeros((), jnp.int32)
    return PretrainState(
        step=zero, params=params, frozen_params={}, momentum_params={}, batch_stats={},
        momentum_batch_stats={}, opt_state=(), queues={}, key_data=jnp.zeros(2, jnp.uint32),
        skipped=zero, skipped_in_row=zero,
    )  # fmt: skip


def test_a_run_begins_with_a_file(tmp_path: Path) -> None:
    """Of our names, in half precision; what the file lacks is advised, and then left as drawn."""
    kernel = np.arange(6, dtype=np.float16).reshape(2, 3)
    write_arrays(tmp_path / "ours.safetensors", {"params/encoder/conv/kernel": kernel})
    drawn = {
        "encoder": {"conv": {"kernel": jnp.zeros((2, 3))}},
        "predictors": {"word": {"bias": jnp.ones(2)}},
        "projector": {"linear": {"bias": jnp.ones(3)}},
    }
    state, place = toy_state(drawn), str(tmp_path / "ours.safetensors")
    advised = "('params/predictors/*', 'params/projector/*')"
    with pytest.raises(ConfigError) as refused:
        warm_start(state, place, read=read_start)
    assert f'--config.init_may_differ="{advised}"' in str(refused.value)
    warm = warm_start(state, place, eval(advised), read_start)
    np.testing.assert_array_equal(warm.params["encoder"]["conv"]["kernel"], kernel)
    assert warm.params["encoder"]["conv"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(warm.params["projector"]["linear"]["bias"], 1)
    jax.tree.map(np.testing.assert_array_equal, warm.momentum_params, warm.params)


def test_the_weights_of_a_recogniser() -> None:
    folder = Path(rcmstr_jax.__file__).parent / "pretrained" / "compact"
    found = read_start(str(folder / "weights.safetensors"))
    assert set(found.params) == {"encoder", "decoder"} and set(found.batch_stats) == {"encoder"}


def test_what_cannot_be_a_beginning(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_start(str(tmp_path))
    write_arrays(tmp_path / "other.npz", {"fc.weight": np.zeros(3, np.float32)})
    with pytest.raises(ConfigError, match="no kind that is known .*fc.weight"):
        read_start(str(tmp_path / "other.npz"))
    arrays = export_checkpoint(KINDS["resnet"], workdir_arrays("resnet"))
    write_arrays(tmp_path / "more.npz", {**arrays, "fc.weight": np.zeros(3, np.float32)})
    with pytest.raises(ConfigError, match="fc.weight.*convert_weights.py --kind=resnet --waive"):
        read_start(str(tmp_path / "more.npz"))
    (tmp_path / "code.pth").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"config.init_from=.*code.pth"):
        warm_start(toy_state({}), str(tmp_path / "code.pth"), read=read_start)
