"""The decoder that is trained alone before fine-tuning."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import finetune_ctc
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.evaluation.protocols import run_evaluation
from rcmstr_jax.recognition import feeds
from rcmstr_jax.recognition.encoders import Encoder, random_encoder
from rcmstr_jax.recognition.fitting import PROBE, Stopped, probe_decoder
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.task import Task
from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.skipped import SkippedSteps
from rcmstr_jax.training.loop import open_session
from rcmstr_jax.training.plan import evaluation_plan
from tests.recognition.toy_words import WORDS, words_lmdb

TEXTS = ["a", "b", "ab", "ba"]
HEAD = make_head("linear", Charset("ab"), max_length=3)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 128, 3)).astype(np.uint8)


def small():
    config = finetune_ctc.get_config()
    config.model.encoder, config.model.image_width = "vit", 128
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    config.compilation_cache, config.random_beside = "off", False
    config.eval_batch_size = 4
    config.decoder.name = "linear"
    config.train.update(
        labels=1.0, batch_size=4, steps=2, passes=0.0, probe_steps=30, learning_rate=0.03
    )
    return config


class Words(list):
    """Records of which only their number counts."""

    name = "words"


def encoder_of(config) -> Encoder:
    return random_encoder(config_to_jsonable(config.model), seed=0)


def probe(workdir: Path, config, encoder: Encoder) -> Any:
    plan, subset, counts = evaluation_plan(config), Words(TEXTS), {}
    with open_session(workdir, compilation_cache="off") as session:
        task = Task(plan, session, encoder, HEAD, is_random=True, run={"name": "one"})
        chosen = feeds.TrainingWords(subset, TEXTS, counts, session.faults())
        return probe_decoder(task, chosen, IMAGES, TEXTS)


def test_decoder_learns_and_the_encoder_stays(tmp_path) -> None:
    config = small()
    encoder = encoder_of(config)
    before = jax.tree.map(np.asarray, encoder.params)
    params = probe(tmp_path, config, encoder)

    frames = encoder.infer(encoder.params, encoder.batch_stats, jnp.asarray(IMAGES))
    fresh = HEAD.init(jax.random.key(0), frames)
    (after, count), (start, _) = (
        HEAD.loss(p, frames, HEAD.targets(TEXTS)) for p in (params, fresh)
    )
    assert after / count < 0.5 * start / count
    jax.tree.map(np.testing.assert_array_equal, before, encoder.params)


def test_a_run_of_its_own_that_goes_on_where_it_was_interrupted(tmp_path, monkeypatch) -> None:
    config = small()
    encoder = encoder_of(config)
    whole = probe(tmp_path / "whole", config, encoder)
    add = SkippedSteps.add

    def with_signal(self, step, metrics):
        if step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(SkippedSteps, "add", with_signal)
        with pytest.raises(Stopped, match="after step 20 of 30 of the decoder alone"):
            probe(tmp_path / "cut", config, encoder)
    assert [path.name for path in (tmp_path / "cut" / PROBE / "checkpoints").iterdir()] == ["20"]
    assert not (tmp_path / "cut/checkpoints").exists()
    again = probe(tmp_path / "cut", config, encoder)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert "continuing after step 20" in (tmp_path / "cut/log.txt").read_text()
    for name in ("metrics.jsonl", "state_digest.txt"):
        both = [(tmp_path / folder / PROBE / name).read_text() for folder in ("whole", "cut")]
        assert both[0] == both[1]
    # A finished one is taken as it is: what comes after it may be interrupted, too.
    jax.tree.map(np.testing.assert_array_equal, whole, probe(tmp_path / "cut", config, encoder))


@pytest.fixture
def config(tmp_path):
    config = small()
    words_lmdb(tmp_path / "train", WORDS)
    words_lmdb(tmp_path / "benchmark/toy", WORDS[:5])
    config.train.source = (f"lmdb:{tmp_path / 'train'}",)
    config.benchmarks = str(tmp_path / "benchmark")
    return config


def test_fine_tuning_begins_with_it(config, tmp_path) -> None:
    losses = {}
    for steps in (0, 30):
        config.train.probe_steps, config.train.log_every = steps, 1
        workdir = tmp_path / f"run{steps}"
        run_evaluation(evaluation_plan(config), workdir, "random")
        log = (workdir / "log.txt").read_text()
        assert ("the decoder alone: 30 steps" in log) == bool(steps)
        first = re.search(r"step 1/2 .*loss ([\d.]+)", log)
        assert first
        losses[steps] = float(first[1])
        assert not (workdir / PROBE).exists() and not (workdir / "checkpoints").exists()
    assert losses[30] < losses[0]


def test_words_that_are_streamed_are_refused(config, tmp_path) -> None:
    config.train.memory_gib = 0.0
    with pytest.raises(ConfigError, match=r"train.probe_steps=30.*train.memory_gib=0.0.*=0"):
        run_evaluation(evaluation_plan(config), tmp_path / "run", "random")
