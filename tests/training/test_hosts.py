"""One device, four, and two processes of two: the same run; and a pair that loses one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.errors import EXIT_FAILED, EXIT_LOST, EXIT_PREEMPTED
from tests.flags import xla_flags

Process = subprocess.Popen[str]
# Starts a launcher whose disk is full at the fifth step.
FAILS = """
import errno, os, runpy, sys
from rcmstr_jax.training import loop

def add(self, step, metrics):
    if step == 5:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full")

loop.SkippedSteps.add = add
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of 24 noisy words."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        image = rng.integers(0, 80, (32, 64, 3), np.uint8)
        cv2.putText(image, f"w{i}", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def start() -> Callable[..., Process]:
    """Starts a Python process with this many fake devices."""

    def run(command: list[str], devices: int) -> Process:
        environment = {
            **os.environ,
            "XLA_FLAGS": xla_flags(devices),
            "JAX_PLATFORMS": "cpu",
        }
        return subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def finish(*processes: Process, timeout: float = 300.0) -> list[str]:
    """Waits for processes that have to end well; returns what they said."""
    said = [process.communicate(timeout=timeout)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-3000:]
    return said


class Runs:
    """Runs of `step_worker.py`, by name."""

    def __init__(self, folder: Path, images: Path, start: Callable[..., Process]) -> None:
        self.folder, self._images, self._start = folder, images, start

    def run(
        self, name: str, until: int, *, devices: int, hosts: int = 1, views: bool = False
    ) -> None:
        worker = str(Path(__file__).with_name("step_worker.py"))
        command = [
            worker, f"--workdir={self.folder / name}", f"--images={self._images}",
            f"--until={until}", f"--hosts={hosts}", f"--port={free_port()}",
            *(["--views"] if views else []),
        ]  # fmt: skip
        finish(*(self._start([*command, f"--host={host}"], devices) for host in range(hosts)))

    def keep_first_step(self, name: str, copied: str) -> None:
        """Copies a run as it was when it had taken one step."""
        later = shutil.ignore_patterns("2", "3", "metrics-[23].json")
        shutil.copytree(self.folder / name, self.folder / copied, ignore=later)

    def state(self, name: str) -> dict[str, np.ndarray]:
        with Checkpoints(self.folder / name, read_only=True) as checkpoints:
            step, _, arrays = checkpoints.read()
        assert step == 3
        return arrays

    def metrics(self, name: str) -> list[dict[str, float]]:
        files = [self.folder / name / f"metrics-{step}.json" for step in (1, 2, 3)]
        return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, images, start) -> Runs:
    """Three steps on one device, the reference of all others."""
    runs = Runs(tmp_path_factory.mktemp("runs"), images, start)
    runs.run("one", 3, devices=1)
    return runs


def assert_same_run(runs: Runs, name: str, reference: str = "one") -> None:
    """Parameters, queues, statistics, optimiser and losses, but for the order of summation."""
    ours, theirs = runs.state(name), runs.state(reference)
    assert set(ours) == set(theirs)
    assert {array.dtype.name for array in theirs.values()} == {"float64", "int32", "uint32"}
    for path, array in theirs.items():
        np.testing.assert_allclose(ours[path], array, rtol=1e-7, atol=1e-9, err_msg=path)
    for mine, yours in zip(runs.metrics(name), runs.metrics(reference), strict=True):
        assert mine == pytest.approx(yours, rel=1e-9, abs=1e-12)


@pytest.mark.long
def test_four_devices_and_resuming_on_two_and_on_one(runs):
    """With views, which take longest to compile."""
    runs.run("seen", 3, devices=1, views=True)
    runs.run("four", 3, devices=4, views=True)
    assert_same_run(runs, "four", "seen")
    runs.keep_first_step("four", "fewer")
    runs.run("fewer", 2, devices=2, views=True)
    runs.run("fewer", 3, devices=1, views=True)
    assert_same_run(runs, "fewer", "seen")
    assert runs.metrics("seen")[0]["loss"] != runs.metrics("one")[0]["loss"]


@pytest.mark.slow
def test_two_processes_of_two_devices_and_going_on_with_one(runs):
    runs.run("pair", 3, devices=2, hosts=2)
    assert_same_run(runs, "pair")
    steps = sorted(path.name for path in (runs.folder / "pair" / "checkpoints").iterdir())
    assert steps == ["1", "2", "3"]
    runs.keep_first_step("pair", "alone")
    runs.run("alone", 3, devices=1)
    assert_same_run(runs, "alone")


class Pair:
    """Two processes of `launch/pretrain.py` on one workdir."""

    def __init__(self, workdir: Path, images: Path, repository: Path, start) -> None:
        self.workdir, self._start = workdir, start
        self._command = [
            str(repository / "launch" / "pretrain.py"), f"--workdir={workdir}",
            f"--config={repository}/configs/pretrain/mini.py:test",
            f"--config.data.source=folder:{images}",
            f"--config.compilation_cache={workdir.parent / 'compiled'}",
            "--config.model.encoder=vit", "--config.model.depth=1", "--config.model.heads=1",
            "--config.model.image_width=32", "--config.model.projector=mlp",
            "--config.mim.enabled=False", "--config.views.enabled=False",
            "--config.total_images=4800", "--config.checkpoint_every=50", "--config.log_every=3",
            "--config.picture_every=-1",
        ]  # fmt: skip

    def start(self, failing: int | None = None) -> tuple[Process, Process]:
        joined = [
            "--distributed=flags", f"--coordinator_address=127.0.0.1:{free_port()}",
            "--num_processes=2",
        ]  # fmt: skip
        first, second = (
            self._start(
                [
                    *(["-c", FAILS] if i == failing else []),
                    *self._command, *joined, f"--process_id={i}",
                ],
                1,
            )
            for i in range(2)
        )  # fmt: skip
        return first, second

    def wait_for_steps(self, steps: int, *processes: Process) -> None:
        """Waits until the metrics have steps beyond those that an earlier pair left there."""
        step = self.last_step() + steps
        while all(process.poll() is None for process in processes) and self.last_step() < step:
            time.sleep(0.02)
        for process in processes:
            assert process.poll() is None, process.communicate()[0][-3000:]

    def last_step(self) -> int:
        metrics = self.workdir / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def result(self) -> tuple[str, str]:
        names = ("state_digest.txt", "metrics.jsonl")
        digest, metrics = ((self.workdir / name).read_text() for name in names)
        return digest, metrics


def survivor(process: Process, *, of: Process) -> str:
    """Kills one of two and returns what the other says until it ends, within a minute."""
    of.kill()
    killed = time.monotonic()
    text = process.communicate(timeout=300)[0]
    assert time.monotonic() - killed < 60, text[-3000:]
    return text


@pytest.mark.long
def test_pair_stops_together_loses_one_and_ends_like_an_undisturbed_one(
    tmp_path, images, repository, start
):
    whole = Pair(tmp_path / "whole", images, repository, start)
    said = finish(*whole.start())
    assert "step 600/600" in said[0]
    assert "step 600/600" not in said[1]  # only process 0 writes logs

    pair = Pair(tmp_path / "pair", images, repository, start)
    first, second = pair.start()
    pair.wait_for_steps(6, first, second)
    second.send_signal(signal.SIGTERM)
    texts = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (EXIT_PREEMPTED, EXIT_PREEMPTED), texts
    assert "a process was asked to stop: saving after step" in texts[0]

    first, second = pair.start()
    pair.wait_for_steps(30, first, second)
    text = survivor(first, of=second)
    assert first.returncode == EXIT_LOST, text[-3000:]
    errors = [line for line in text.splitlines() if line.startswith("error: process 1 on")]
    assert len(errors) == 1
    assert "Start all processes again with the same command" in errors[0]

    # With process 0 goes JAX's own service, and JAX may end the others before we do.
    first, second = pair.start()
    pair.wait_for_steps(30, first, second)
    text = survivor(second, of=first)
    assert second.returncode in (EXIT_LOST, -signal.SIGABRT), text[-3000:]
    assert "error: process 0 on" in text or "another task died" in text

    finish(*pair.start())
    assert pair.result() == whole.result()


@pytest.mark.long
def test_a_pair_whose_disk_is_full_fails_together(tmp_path, images, repository, start):
    """Not with the code of a lost process: that would be started again, and again."""
    for failing in range(2):
        pair = Pair(tmp_path / str(failing), images, repository, start).start(failing)
        said = [process.communicate(timeout=300)[0] for process in pair]
        assert [process.returncode for process in pair] == [EXIT_FAILED, EXIT_FAILED], said
        assert "error: /full cannot be written: No space left on device" in said[failing]
        other = said[1 - failing]
        assert f"error: process {failing} on" in other
        assert "ended with OSError: [Errno 28] No space left on device: '/full'" in other
