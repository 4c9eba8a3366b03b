"""The frozen probe at published budgets: augmented, streamed, on several devices, in passes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import (
    common,
    finetune_ctc,
    finetune_transformer,
    frozen_attention,
    frozen_ctc,
    semi_supervised,
)
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.records import Record
from rcmstr_jax.evaluation.protocols import run_evaluation
from rcmstr_jax.recognition import words
from rcmstr_jax.recognition.encoders import random_encoder
from rcmstr_jax.recognition.feeds import StreamedFeed
from rcmstr_jax.recognition.fitting import encoding
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.task import in_passes
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.plan import LabelPlan, evaluation_plan
from rcmstr_jax.training.stored import filled
from tests.recognition.toy_words import WORDS, picture, words_lmdb

DEVICES, BATCH = 4, 8
HEAD = make_head("linear", Charset("abc"), max_length=3)


class Pictures:
    """Records that cost nothing to hold: one image, a few texts."""

    name = "pictures"

    def __init__(self, count: int) -> None:
        self.count, self.image = count, picture("ab")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        return Record(self.image, "abc"[: 1 + index % 3], "toy")


def choose(count: int, folder: Path) -> words.TrainingWords:
    return words.choose_words(
        Pictures(count), labels=1.0, seed=0, charset=HEAD.charset, max_length=3,
        faults=FaultLog(folder / "faults.json"),
    )  # fmt: skip


def small(passes: float = 0.0, **train: Any) -> Any:
    """The published probe's fields on a network that compiles in a moment."""
    config = frozen_ctc.get_config("published")
    config.model.encoder, config.model.image_width = "vit", 32
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    config.decoder.name = "linear"
    config.compilation_cache, config.random_beside, config.eval_batch_size = "off", False, 4
    config.train.update(batch_size=BATCH, steps=0 if passes else 2, passes=passes, **train)
    return config


@pytest.mark.parametrize("name", ["ctc", "attention"])
def test_published_budget(name: str) -> None:
    module: Any = {"ctc": frozen_ctc, "attention": frozen_attention}[name]
    plan = evaluation_plan(module.get_config("published"))
    assert plan.frozen and plan.decoder.name == name
    assert (plan.loop.total_steps, plan.loop.batch_size, plan.train.view_ops) == (200_000, 256, 5)
    assert (plan.train.learning_rate, plan.train.clip, plan.decoder.max_length) == (5e-4, 5.0, 25)
    assert plan.train.labels == 1.0


@pytest.mark.parametrize("module", [finetune_ctc, finetune_transformer, semi_supervised])
def test_fine_tuning_is_ten_passes_over_the_labels(module: Any) -> None:
    plan = evaluation_plan(module.get_config())
    batch = plan.loop.batch_size
    for count, steps in ((batch * 100, 1000), (batch * 100 + 1, 1001), (3, -(-30 // batch))):
        assert in_passes(plan, count).loop.total_steps == steps
    mini = evaluation_plan(module.get_config("mini"))
    assert in_passes(mini, 10**6) is mini
    config = module.get_config()
    config.train.steps = 500
    with pytest.raises(ConfigError, match=r"train\.passes=10\.0 beside config\.train\.steps=500"):
        evaluation_plan(config)


def test_four_devices_learn_what_one_learns(tmp_path: Path) -> None:
    """Augmented words of one global order, through a frozen encoder, two steps."""
    config = small(view_ops=3)
    plan = evaluation_plan(config, devices=DEVICES)
    encoder = random_encoder(config_to_jsonable(config.model), seed=0)
    chosen = choose(40, tmp_path)
    optimizer, schedule = rs.recognition_optimizer(2, LabelPlan((), learning_rate=0.1))
    constants = {"encoder": {"params": encoder.params, "batch_stats": encoder.batch_stats}}
    feed = StreamedFeed(chosen, HEAD, encoder.image_size, plan, constants)
    with feed.batches(0) as stream:
        batches = [next(stream) for _ in range(2)]
    decoder = jax.jit(HEAD.init)(jax.random.key(0), jnp.zeros((2, *encoder.frames_shape())))
    fresh = rs.create_state(jax.random.key(0), decoder, optimizer)

    def learnt(devices: int, view_ops: int) -> tuple[Any, list[float]]:
        encode = encoding(encoder, frozen=True)
        step = rs.make_step(
            HEAD.loss, optimizer, schedule, encode=encode, view_ops=view_ops,
            axis_name=parallel.AXIS if devices > 1 else None,
        )  # fmt: skip
        state, losses = fresh, []
        if devices == 1:
            one = jax.jit(step)
            for batch in batches:
                state, metrics = one(state, batch, constants)
                losses.append(float(metrics["loss"]))
            return state.params, losses
        several = jax.pmap(step, parallel.AXIS, in_axes=(None, 0, None), out_axes=None)
        for batch in batches:
            split = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
            state, metrics = several(state, split, constants)
            losses.append(float(metrics["loss"]))
        return state.params, losses

    one, losses = learnt(1, 3)
    four, same = learnt(DEVICES, 3)
    np.testing.assert_allclose(losses, same, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, four)
    assert learnt(1, 0)[1][0] != pytest.approx(losses[0], rel=1e-4)  # the views do something


def test_memory_does_not_grow_with_the_number_of_words(tmp_path: Path) -> None:
    """A place in the order and a reference to a text stay of a word; images and frames do not."""
    config = small()
    plan = evaluation_plan(config)

    def peak(count: int) -> int:
        tracemalloc.start()
        chosen = choose(count, tmp_path)
        feed = StreamedFeed(chosen, HEAD, (32, 32), plan)
        with feed.batches(0) as stream:
            for _ in range(3):
                next(stream)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1000)  # what is imported and compiled once
    few, many = peak(2_000), peak(22_000)
    assert (many - few) / 20_000 < 40  # bytes a word; an image of 32 x 100 has 9,600


def test_an_augmented_frozen_probe_streams_its_words(tmp_path: Path) -> None:
    words_lmdb(tmp_path / "train", WORDS)
    words_lmdb(tmp_path / "benchmark/toy", WORDS[:5])
    config = small(view_ops=2, passes=2.0)
    config.train.source = (f"lmdb:{tmp_path / 'train'}",)
    config.benchmarks = str(tmp_path / "benchmark")
    results = run_evaluation(evaluation_plan(config), tmp_path / "run", "random")
    log = (tmp_path / "run/log.txt").read_text()
    assert "words are streamed: they are augmented" in log
    assert "2 passes over 9 words: 3 steps of 8" in log  # one word is outside the charset
    assert results.train.steps == 3


def test_stored_runs_without_passes_are_the_same_runs() -> None:
    """A recogniser that was finished before the field was added is not another run."""
    now = config_to_jsonable(common.get_config())
    old = {**now, "train": {k: v for k, v in now["train"].items() if k != "passes"}}
    assert filled(old) == now
