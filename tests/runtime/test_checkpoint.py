"""Checkpoints: exact, whole, and the one before where the newest is damaged."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.runtime import checkpoint as checkpoint_module
from rcmstr_jax.runtime.checkpoint import CheckpointError, CheckpointMismatch, Checkpoints
from rcmstr_jax.runtime.config_files import config_from_jsonable
from rcmstr_jax.runtime.digest import named_arrays, nested, state_digest
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition, code_version, source_fingerprint
from rcmstr_jax.runtime.weights import read_weights
from rcmstr_jax.ssl.queue import KeyQueue
from rcmstr_jax.training.state import PretrainState

CONFIG = mini.get_config("test")
POSITION = DataPosition("folder:words (64 records)", seed=0, batch_size=8)


def make_state(step: int = 0, width: int = 3) -> PretrainState:
    """A state of a toy network with every kind of leaf."""
    rng = np.random.default_rng(step)
    params = {
        "encoder": {"conv": {"kernel": jnp.asarray(rng.normal(size=(2, width)), jnp.float32)}},
        "projector": {"bias": jnp.asarray(rng.normal(size=width), jnp.float32)},
    }
    stats = {"encoder": {"norm": {"mean": jnp.arange(width, dtype=jnp.float32)}}}
    return PretrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        frozen_params={"rectifier": {"bias": jnp.ones(2)}},
        momentum_params=jax.tree.map(lambda x: x * 0.5, params),
        batch_stats=stats,
        momentum_batch_stats=jax.tree.map(lambda x: x + 1, stats),
        opt_state=optax.adamw(1e-3).init(params),
        queues={"word": KeyQueue(jnp.ones((4, 2)), jnp.asarray(2, jnp.int32))},
        key_data=jax.random.key_data(jax.random.key(3)),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


def save(workdir: Path, *steps: int, **options) -> list[str]:
    with Checkpoints(workdir, **options) as checkpoints:
        return [checkpoints.save(s, make_state(s), CONFIG, POSITION).result() for s in steps]


def assert_equal_states(a, b):
    for name, array in named_arrays(a).items():
        np.testing.assert_array_equal(array, named_arrays(b)[name], err_msg=name)


def test_restored_state_equals_the_saved_one(tmp_path):
    (digest,) = save(tmp_path, 7)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(make_state), POSITION)
    assert restored.step == 7
    assert isinstance(restored.state, PretrainState)
    assert_equal_states(restored.state, make_state(7))
    assert state_digest(restored.state) == digest
    assert config_from_jsonable(restored.config).to_dict() == CONFIG.to_dict()


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state()) is None


def test_state_may_change_while_it_is_written(tmp_path):
    state = named_arrays(make_state(1))
    with Checkpoints(tmp_path) as checkpoints:
        digest = checkpoints.save(1, state, CONFIG, POSITION)
        for array in state.values():
            array[...] = 0
        checkpoints.wait()
        assert state_digest(checkpoints.read()[2]) == digest.result()


def test_a_step_waits_for_nothing_but_its_copy(tmp_path, monkeypatch):
    """Hashing and handing over are the writer's; arrays that are given away are not copied."""
    seen, free = [], threading.Event()

    def slowly(arrays):
        assert free.wait(60)
        seen.append(arrays)
        return state_digest(arrays)

    monkeypatch.setattr(checkpoint_module, "state_digest", slowly)
    state = named_arrays(make_state(1))
    with Checkpoints(tmp_path) as checkpoints:
        digest = checkpoints.save(1, state, CONFIG, POSITION, owned=True)
        assert not digest.done()
        free.set()
        assert checkpoints.steps() == [1] and digest.result() == state_digest(state)
        assert all(seen[0][name] is array for name, array in state.items())


def test_an_error_of_the_writer_ends_the_next_save(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full)
        checkpoints.save(1, make_state(1), CONFIG, POSITION)
        with pytest.raises(CheckpointError, match="No space left.*from step 0"):
            checkpoints.save(2, make_state(2), CONFIG, POSITION)


def test_arrays_without_elements_survive(tmp_path):
    state = {"a": np.zeros((0, 3), np.float32), "b": np.ones(2, np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, CONFIG, POSITION)
        checkpoints.wait()
        assert checkpoints.restore(state).state["a"].shape == (0, 3)


def test_last_and_every_nth_are_kept(tmp_path):
    save(tmp_path, 10, 15, 20, 25, 30, 35, keep=2, keep_period=20)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [35, 30, 20]


def test_saving_a_step_twice_is_saving_it_once(tmp_path):
    assert len(set(save(tmp_path, 5, 5))) == 1


def data_files(step_folder: Path) -> list[Path]:
    """Files that hold arrays, largest first."""
    files = [p for p in (step_folder / "state").rglob("*") if p.is_file() and "/d/" in str(p)]
    return sorted(files, key=lambda p: -p.stat().st_size)


def truncate(folder: Path) -> None:
    for file in data_files(folder):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_bit(folder: Path) -> None:
    for file in data_files(folder):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def other_numbers(folder: Path) -> None:
    """Arrays that read well and are not those that were saved."""
    twin = folder.parent.parent / "twin"
    with Checkpoints(twin) as checkpoints:
        checkpoints.save(int(folder.name), make_state(99), CONFIG, POSITION)
    shutil.rmtree(folder / "state")
    shutil.copytree(twin / "checkpoints" / folder.name / "state", folder / "state")


DAMAGE = {
    "truncated": truncate,
    "bit flipped": flip_bit,
    "other numbers": other_numbers,
    "arrays deleted": lambda folder: shutil.rmtree(folder / "state"),
    "metadata deleted": lambda folder: shutil.rmtree(folder / "meta"),
    "metadata cut": lambda folder: (folder / "meta" / "metadata").write_text('{"step": 2, "dig'),
    "everything deleted inside": lambda folder: [
        shutil.rmtree(p) if p.is_dir() else p.unlink() for p in folder.iterdir()
    ],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, damage):
    save(tmp_path, 1, 2)
    DAMAGE[damage](tmp_path / "checkpoints" / "2")
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(make_state), POSITION)
        assert restored.step == 1
        assert_equal_states(restored.state, make_state(1))
        warning = next(r.getMessage() for r in caplog.records if "unreadable" in r.getMessage())
        assert "step 2" in warning
        assert "taking step 1" in warning
        # The way is free: the step can be computed and saved again.
        checkpoints.save(2, make_state(2), CONFIG, POSITION)
        checkpoints.wait()
        assert checkpoints.restore(make_state()).step == 2
    assert (tmp_path / "checkpoints_unreadable" / "2").is_dir()


def test_reading_alone_moves_nothing(tmp_path, caplog):
    save(tmp_path, 1, 2)
    truncate(tmp_path / "checkpoints" / "2")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.read()[0] == 1
    assert (tmp_path / "checkpoints" / "2").is_dir()
    assert not (tmp_path / "checkpoints_unreadable").exists()


def test_no_readable_checkpoint_is_an_error(tmp_path):
    save(tmp_path, 1)
    truncate(tmp_path / "checkpoints" / "1")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"none of the checkpoints \[1\] .* is readable"):
            checkpoints.restore(make_state())


def test_leftover_of_a_killed_write_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(
        tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-12"
    )
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.restore(make_state(), POSITION).step == 1


def test_other_architecture_lists_every_name(tmp_path):
    save(tmp_path, 1)
    template = make_state(width=4)
    template.params["head"] = {"kernel": jnp.ones((2, 2))}
    del template.params["projector"]
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointMismatch) as caught:
            checkpoints.restore(template, POSITION)
    message = str(caught.value)
    assert "missing (1): params/head/kernel" in message
    assert "unexpected (1): params/projector/bias" in message
    assert "params/encoder/conv/kernel is (2, 3) float32, needed (2, 4) float32" in message
    assert "another --workdir" in message


@pytest.mark.parametrize(
    ("field", "value"), [("source", "lmdb:other"), ("seed", 1), ("batch_size", 16)]
)
def test_other_data_are_an_error_that_names_both(tmp_path, field, value):
    save(tmp_path, 1)
    other = DataPosition(**{**vars(POSITION), field: value})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointMismatch) as caught:
            checkpoints.restore(make_state(), other)
    assert repr(getattr(POSITION, field)) in str(caught.value)
    assert repr(value) in str(caught.value)


def test_metadata_hold_config_code_and_position(tmp_path):
    save(tmp_path, 1)
    meta = json.loads((tmp_path / "checkpoints" / "1" / "meta" / "metadata").read_text())
    assert meta["config"]["model"]["width"] == CONFIG.model.width
    assert meta["position"] == vars(POSITION)
    assert meta["code"] == code_version()
    assert meta["step"] == 1


def test_full_disk_is_a_clear_error_and_the_older_checkpoint_stays(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1), CONFIG, POSITION)
    checkpoints.wait()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(CheckpointError, match="No space left.*Make room.*from step 1"):
        checkpoints.save(2, make_state(2), CONFIG, POSITION)
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.close()
    with Checkpoints(tmp_path) as again:
        assert again.restore(make_state()).step == 1


def test_workdir_without_checkpoints_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match="--workdir of a pretraining run"):
        Checkpoints(tmp_path, read_only=True)


def test_digest_depends_on_names_types_shapes_and_bits():
    base = {"a": np.zeros(4, np.float32), "b": np.ones((), np.int32)}
    variants = [
        base,
        {**base, "a": np.zeros((2, 2), np.float32)},
        {**base, "a": np.zeros(4, np.int32)},
        {**base, "a": np.array([0, 0, 0, -0.0], np.float32)},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({state_digest(v) for v in variants}) == len(variants)
    assert state_digest(dict(reversed(base.items()))) == state_digest(base)
    assert state_digest({"a": np.asfortranarray(np.eye(3)), "b": base["b"]}) == state_digest(
        {"a": np.eye(3), "b": base["b"]}
    )


def test_pretrained_network_of_either_branch(tmp_path):
    save(tmp_path, 1)
    state = make_state(1)
    found = read_weights(tmp_path)
    assert (found.step, found.config["model"]["encoder"]) == (1, "cnn")
    assert_equal_states(found.params, {**state.params, **state.frozen_params})
    assert_equal_states(found.batch_stats, state.batch_stats)
    found = read_weights(f"{tmp_path}@1", branch="momentum")
    assert_equal_states(found.params, {**state.momentum_params, **state.frozen_params})
    assert_equal_states(found.batch_stats, state.momentum_batch_stats)
    with pytest.raises(ConfigError, match="config.branch='teacher': .* online, momentum"):
        read_weights(tmp_path, branch="teacher")


def test_nested_names():
    arrays = {"params/a/b": np.ones(1), "params/c": np.ones(2), "params_other/d": np.ones(3)}
    assert jax.tree.map(np.shape, nested(arrays, "params")) == {"a": {"b": (1,)}, "c": (2,)}


def test_fingerprint_names_components_and_sizes():
    class Source:
        def __init__(self, name, size, components=(), endless=False):
            self.name, self.size, self.components = name, size, components
            self.endless = endless

        def __len__(self):
            return self.size

    a, b = Source("a", 3), Source("b", 2**62, endless=True)
    mixed = source_fingerprint(Source("a*1, b*2", 2**62, (a, b), endless=True))
    assert mixed == "a*1, b*2 (endless) of [a (3 records), b (endless)]"
    assert mixed != source_fingerprint(Source("a*1, b*2", 2**62, (Source("a", 4), b), endless=True))
