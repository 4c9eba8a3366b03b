"""Watching a pretraining run: each checkpoint once, beside the curves, until the last."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jax
import pytest

from rcmstr_jax.configs.evaluate import frozen_ctc, linear_probe
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.evaluation import watch as watching
from rcmstr_jax.recognition.encoders import load_encoder, random_encoder
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.config_files import config_to_jsonable, write_config
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.training.plan import evaluation_plan
from tests.recognition.toy_words import picture

TEXTS = ["cat", "dog", "otter", "yak", "emu", "see", "bee", "ant"]


@pytest.fixture
def config(tmp_path):
    write_lmdb(tmp_path / "train", [Record(picture(text), text, "toy") for text in TEXTS * 3])
    config = linear_probe.get_config("test")
    config.compilation_cache = "off"
    config.train.source = (f"lmdb:{tmp_path / 'train'}",)
    config.train.labels = 1.0
    return evaluation_plan(config)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that has written its checkpoints of steps 2 and 4, the last."""
    folder = tmp_path / "run"
    folder.mkdir()
    pretrain = mini.get_config("vit")
    pretrain.model.width, pretrain.model.depth, pretrain.model.heads = 16, 1, 1
    pretrain.total_images = 4 * pretrain.batch_size
    pretrain.optimizer.warmup_images = 0
    write_config(pretrain, folder)
    section = config_to_jsonable(pretrain.model)
    encoder = random_encoder(section, seed=pretrain.seed)
    with Checkpoints(folder) as checkpoints:
        for step in (2, 4):
            params = jax.tree.map(lambda x, step=step: x * step, encoder.params)
            checkpoints.save(step, {"params": params}, pretrain, DataPosition("words", 0, 8))
            checkpoints.wait()
    return folder


def curve(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "watch/metrics.jsonl").open()]


def test_every_checkpoint_is_measured_once(config, run, capsys) -> None:
    assert watching.watch(config, str(run), every=0.01) == [2, 4]
    lines = capsys.readouterr().out.splitlines()
    found = curve(run)
    assert [line["step"] for line in found] == [2, 4]
    for line in found:
        assert 0 <= line["probe/word_accuracy"] <= 100 and 0 <= line["probe/one_minus_ned"] <= 100
    assert lines[-1].startswith("step 4 of 4: 1-NED")
    # TensorBoard shows the folder as a run of its own, and nothing else is left behind.
    kinds = {path.name.split(".")[0] for path in (run / "watch").iterdir()}
    assert kinds == {"metrics", "speed", "events"}
    assert watching.watch(config, str(run)) == [] and not capsys.readouterr().out


@pytest.fixture
def read_only(monkeypatch) -> None:
    """Checkpoints are read, and nothing is trained on them."""

    def measure(config, pretrained, step, out):
        load_encoder(f"{pretrained}@{step}")
        return {"probe/word_accuracy": 0.0, "probe/one_minus_ned": 0.0}

    monkeypatch.setattr(watching, "measure", measure)


def test_a_later_look_takes_up_where_the_first_ended(config, run, read_only, monkeypatch) -> None:
    shutil.move(run / "checkpoints/4", run / "held_back")
    seen = []

    def say(line: str, *, flush: bool) -> None:
        seen.append(line.split(":")[0])
        if len(seen) == 1:  # the last checkpoint appears while the first is measured
            shutil.move(run / "held_back", run / "checkpoints/4")

    monkeypatch.setattr(watching, "print", say, raising=False)
    assert watching.watch(config, str(run), every=0.01) == [2, 4]
    assert seen == ["step 2 of 4", "step 4 of 4"]
    assert [line["step"] for line in curve(run)] == [2, 4]


def test_what_was_missed_or_cannot_be_read_is_told(config, run, read_only, capsys) -> None:
    description = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**description, "checkpoint_every": 1}))
    for path in (run / "checkpoints/2/state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")

    assert watching.watch(config, str(run), every=0.01) == [4]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "2 checkpoints from step 1 to 3 went away" in lines[0] and "keep_period" in lines[0]
    assert re.match(r"step 2 of 4 is left out: checkpoint .*/2 is unreadable", lines[1])
    assert [line["step"] for line in curve(run)] == [4]


def test_what_cannot_be_watched(config, run) -> None:
    frozen = evaluation_plan(frozen_ctc.get_config("test"))
    with pytest.raises(ConfigError, match="train.validation=0.*linear_probe.py"):
        watching.watch(frozen, str(run))
    with pytest.raises(ConfigError, match="config.json is missing"):
        watching.watch(config, str(run / "checkpoints"))
    with pytest.raises(ConfigError, match="--watch takes the workdir"):
        watching.watch(config, f"random:{run}")
