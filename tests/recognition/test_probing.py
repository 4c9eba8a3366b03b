"""The decoder that is trained alone before fine-tuning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import finetune_ctc
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.evaluation.protocols import run_evaluation
from rcmstr_jax.recognition.encoders import random_encoder
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.probing import probe_decoder
from rcmstr_jax.runtime.errors import ConfigError
from tests.recognition.toy_words import WORDS, words_lmdb


def small():
    config = finetune_ctc.get_config()
    config.model.encoder, config.model.image_width = "vit", 128
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    config.compilation_cache, config.random_beside = "off", False
    config.eval_batch_size = 4
    config.decoder.name = "linear"
    config.train.update(labels=1.0, batch_size=4, steps=2, probe_steps=30, learning_rate=0.03)
    return config


def test_decoder_learns_and_the_encoder_stays() -> None:
    config = small()
    encoder = random_encoder(config)
    before = jax.tree.map(np.asarray, encoder.params)
    texts = ["a", "b", "ab", "ba"]
    head = make_head("linear", Charset("ab"), max_length=3)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 128, 3)).astype(np.uint8)
    params = probe_decoder(config, encoder, head, images, texts, is_random=True, log=print)

    frames = encoder.infer(encoder.params, encoder.batch_stats, jnp.asarray(images))
    fresh = head.init(jax.random.key(0), frames)
    (after, count), (start, _) = (
        head.loss(p, frames, head.targets(texts)) for p in (params, fresh)
    )
    assert after / count < 0.5 * start / count
    jax.tree.map(np.testing.assert_array_equal, before, encoder.params)


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
        lines: list[str] = []
        run_evaluation(config, tmp_path / f"run{steps}", "random", log=lines.append)
        assert any("decoder alone: 30 steps" in line for line in lines) == bool(steps)
        first = next(line for line in lines if line.startswith("step 1/2"))
        losses[steps] = float(first.split("loss ")[1].split(",")[0])
    assert losses[30] < losses[0]


def test_words_that_are_streamed_are_refused(config, tmp_path) -> None:
    config.train.memory_gib = 0.0
    with pytest.raises(ConfigError, match=r"train.probe_steps=30.*train.memory_gib=0.0.*=0"):
        run_evaluation(config, tmp_path / "run", "random")
