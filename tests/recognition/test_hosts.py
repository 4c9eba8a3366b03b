"""Recogniser training on one device, on four, and on two processes of two: the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.flags import xla_flags
from tests.recognition.toy_words import words_lmdb

WORDS = ["cat", "dog", "otter", "yak", "emu", "see", "bee", "ant", "gnu", "owl"]
# Nothing in either has batch statistics in training, so that devices differ by roundings alone.
PROTOCOLS = {
    "frozen": ["--config=frozen_ctc:test", "--config.model.image_width=40"],
    "finetune": [
        "--config=finetune_ctc:test",
        "--config.model.encoder=vit",
        "--config.model.depth=1",
        "--config.model.heads=2",
        "--config.model.image_width=40",
        "--config.train.view_ops=3",
        "--config.train.probe_steps=2",
        "--config.train.average=0.9",
    ],
}


def evaluate(tmp_path: Path, repository: Path, name: str, devices: int, processes: int) -> Path:
    workdir = tmp_path / f"{processes}x{devices}"
    command = [
        str(repository / "launch" / "evaluate.py"),
        *PROTOCOLS[name],
        f"--workdir={workdir}",
        "--pretrained=random",
        f"--config.train.source=lmdb:{tmp_path / 'words'}",
        f"--config.benchmarks={tmp_path / 'benchmark'}",
        "--config.train.labels=9",
        "--config.train.steps=6",
        "--config.train.validation=4",
    ]
    flags = xla_flags(devices)
    if processes > 1:
        several = [f"--processes={processes}", f"--cpu_devices={devices}", "--"]
        command = [str(repository / "launch" / "local_processes.py"), *several, *command]
        flags = xla_flags()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir


def lines(workdir: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("name", PROTOCOLS)
def test_devices_and_processes_share_a_run(tmp_path: Path, repository: Path, name: str) -> None:
    words_lmdb(tmp_path / "words", [*WORDS, *WORDS])
    words_lmdb(tmp_path / "benchmark" / "toy", WORDS)
    one, *others = (
        evaluate(tmp_path, repository, name, devices, processes)
        for devices, processes in ((1, 1), (4, 1), (2, 2))
    )
    for other in others:
        first, second = lines(one, "metrics.jsonl"), lines(other, "metrics.jsonl")
        assert [line["step"] for line in first] == [2, 4, 6] == [line["step"] for line in second]
        for a, b in zip(first, second, strict=True):
            assert a.keys() == b.keys()
            for field in a:
                np.testing.assert_allclose(b[field], a[field], rtol=2e-5, err_msg=field)
        read = [
            [line["prediction"] for line in lines(run, "predictions.jsonl")] for run in (one, other)
        ]
        assert read[0] == read[1]
