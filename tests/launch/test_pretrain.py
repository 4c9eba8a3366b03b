"""launch/pretrain.py as a user starts it: a process of its own, its exit code and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flags import xla_flags

ENVIRONMENT = {**os.environ, "XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu"}
# What a disk answers that was mounted read-only, without the rights to mount one.
READ_ONLY = """
import errno, os, pathlib, runpy, sys

def touch(path, *_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

pathlib.Path.touch = touch
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def command(repository: Path, tmp_path: Path) -> list[str]:
    """The launcher, on the smallest config."""
    return [
        str(repository / "launch" / "pretrain.py"), f"--workdir={tmp_path / 'run'}",
        f"--config={repository}/configs/pretrain/mini.py:test",
    ]  # fmt: skip


def test_a_read_only_workdir_is_answered_in_one_line_before_any_work(command, tmp_path):
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, *command],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --workdir={tmp_path / 'run'} cannot be written")
    assert "Read-only file system" in line and line.endswith("give a folder that can")
    assert not any((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_whole_method(command, tmp_path):
    """Every term and picture: a signal ends the process with 75, the same command completes it."""
    workdir = tmp_path / "run"
    command = [
        sys.executable, *command,
        "--config.model.encoder=vit", "--config.model.depth=1", "--config.model.heads=1",
        "--config.model.image_width=32", "--config.model.projector=mlp",
        "--config.total_images=8000", "--config.optimizer.schedule=constant",
        "--config.checkpoint_every=1000", "--config.log_every=10",
    ]  # fmt: skip
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert first.stderr is not None
    for line in first.stderr:
        if "step 10/1000" in line:
            first.send_signal(signal.SIGTERM)
            break
    errors = first.communicate(timeout=600)[1]
    assert first.returncode == 75, errors
    step = int((workdir / "state_digest.txt").read_text().split()[-1])
    assert 10 <= step < 1000
    again = [*command, f"--config.total_images={8 * (step + 1)}"]
    done = subprocess.run(again, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"continuing after step {step}" in done.stderr
    assert json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"] == step + 1
    names = sorted(path.name for path in (workdir / "pictures").iterdir())
    assert names == ["curves.png", f"masks-{step + 1:06d}.png", "rearranged.png", "views.png"]
