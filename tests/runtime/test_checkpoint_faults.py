"""Checkpoints on damaged, full and read-only disks: real ones, where the system allows it."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.runtime.checkpoint import CheckpointError, Checkpoints
from rcmstr_jax.runtime.command_line import one_line_errors
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.runtime.writers import METRICS, JsonLinesWriter
from rcmstr_jax.training.loop import _prepare

CONFIG = mini.get_config("test")
POSITION = DataPosition("folder:words (64 records)", seed=0, batch_size=8)
MEBIBYTE = 2**20


def state(step: int, kilobytes: int = 4) -> dict[str, np.ndarray]:
    """Noise, so that compression saves nothing."""
    rng = np.random.default_rng(step)
    return {
        "params/kernel": rng.integers(0, 2**31, kilobytes * 256, np.int32),
        "params/bias": rng.normal(size=7).astype(np.float32),
        "step": np.asarray(step, np.int32),
    }


def save(workdir: Path, *steps: int) -> None:
    with Checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), CONFIG, POSITION)


def assert_restores(checkpoints: Checkpoints, step: int, kilobytes: int = 4) -> None:
    restored = checkpoints.restore(state(0, kilobytes), POSITION)
    assert restored is not None and restored.step == step
    for name, array in state(step, kilobytes).items():
        np.testing.assert_array_equal(restored.state[name], array, err_msg=name)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def fill_with_zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "truncated": cut,
    "bit flipped": flip_a_bit,
    "zeros": fill_with_zeros,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_one_file_is_harmless_or_noticed(tmp_path, caplog, damage):
    save(tmp_path / "whole", 1, 2)
    newest = tmp_path / "whole" / "checkpoints" / "2"
    files = sorted(p.relative_to(newest) for p in newest.rglob("*") if p.stat().st_size)
    files = [file for file in files if (newest / file).is_file()]
    noticed = []
    for number, file in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", workdir)
        DAMAGE[damage](workdir / "checkpoints" / "2" / file)
        caplog.clear()
        with caplog.at_level(logging.WARNING), Checkpoints(workdir) as checkpoints:
            newest_read = checkpoints.restore(state(0), POSITION).step
            assert_restores(checkpoints, newest_read)
        warnings = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
        assert (newest_read == 1) == bool(warnings), file
        for warning in warnings:
            noticed.append(file)
            assert "checkpoint of step 2" in warning and "taking step 1" in warning
            assert f"moved to {workdir / 'checkpoints_unreadable' / '2'}" in warning
    # Whatever holds numbers or their digest is among them.
    assert {file.parts[0] for file in noticed} >= {"state", "meta"}


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of two mebibytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def limited(request) -> Iterator[tuple[Path, str, Callable[[], None]]]:
    """A workdir with room for one checkpoint, what a second is answered, and how to make room."""
    if request.param == "full disk":
        disk: Path = request.getfixturevalue("disk")
        (disk / "another file").write_bytes(bytes(MEBIBYTE))
        yield disk / "run", "No space left on device", (disk / "another file").unlink
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # No file grows beyond half a mebibyte: what a quota does, and needs no rights.
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEBIBYTE // 2, before[1]))

        def lift() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

        yield request.getfixturevalue("tmp_path") / "run", "File too large", lift
        lift()


@pytest.mark.parametrize("limited", ["full disk", "quota"], indirect=True)
def test_no_room_is_a_clear_error_and_nothing_half_written_stays(limited):
    workdir, said, make_room = limited
    with pytest.raises(CheckpointError) as caught, Checkpoints(workdir) as checkpoints:
        checkpoints.save(1, state(1, 100), CONFIG, POSITION)
        checkpoints.wait()
        checkpoints.save(2, state(2, 1000), CONFIG, POSITION)
        checkpoints.wait()
    message = str(caught.value)
    for part in (str(workdir / "checkpoints"), said, "Make room", "continues from step 1"):
        assert part in message
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["1"]
    # The same command again, with room.
    make_room()
    with Checkpoints(workdir, keep=1) as again:
        assert_restores(again, 1, 100)
        again.save(2, state(2, 1000), CONFIG, POSITION)
        again.wait()
        assert_restores(again, 2, 1000)


def test_leftovers_of_a_killed_write_are_removed_by_the_next_run(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp-17")
    with Checkpoints(tmp_path, read_only=True) as reader:
        assert reader.steps() == [1]
    assert len(list(folder.iterdir())) == 2
    save(tmp_path, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "3"]


@pytest.fixture
def read_only(disk) -> Path:
    """A disk with a run that was made read-only afterwards."""
    save(disk / "run", 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return disk / "run"


def test_a_read_only_workdir_is_refused_before_any_work(read_only):
    for workdir in (read_only, read_only.parent / "new"):
        with pytest.raises(ConfigError) as caught:
            _prepare(workdir)
        for part in (f"--workdir={workdir} cannot be written", "Read-only", "give a folder"):
            assert part in str(caught.value)


def test_a_run_on_a_read_only_disk_can_be_evaluated(read_only):
    with Checkpoints(read_only, read_only=True) as checkpoints:
        assert_restores(checkpoints, 1)


def test_a_disk_that_becomes_read_only_is_a_clear_error(disk):
    with pytest.raises(CheckpointError) as caught, Checkpoints(disk) as checkpoints:
        checkpoints.save(1, state(1), CONFIG, POSITION)
        checkpoints.wait()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        checkpoints.save(2, state(2), CONFIG, POSITION)
        checkpoints.wait()
    for part in (str(disk / "checkpoints"), "Read-only", "make it writable", "from step 1"):
        assert part in str(caught.value)


def test_metrics_on_a_full_disk_end_the_run_in_one_line(disk, capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        writer = JsonLinesWriter(disk)
        for step in range(1, 10**6):
            writer.write_scalars(step, {f"loss/{i}": 1.0 for i in range(1000)})
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    for part in (str(disk / METRICS), "No space left on device", "Make room", "the same command"):
        assert part in line
