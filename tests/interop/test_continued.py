"""A converted TPS-ResNet-BiLSTM recogniser is fine-tuned: it starts as it reads, and it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import finetune_recognizer
from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.files import write_arrays
from rcmstr_jax.interop.kinds import KINDS, export_checkpoint
from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.decoders.attention import AttentionReader
from rcmstr_jax.models.linear import Linear
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.recognition import fitting
from rcmstr_jax.recognition.feeds import MemoryFeed
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.task import prepare
from rcmstr_jax.runtime.digest import named_arrays
from rcmstr_jax.training.loop import open_session
from rcmstr_jax.training.plan import evaluation_plan
from tests.interop.test_bad_input import Convert, convert, launcher  # noqa: F401  (fixtures)
from tests.recognition.toy_words import WORDS, picture, words_lmdb

HIDDEN = 4


def published(kind: str) -> dict[str, np.ndarray]:
    """A state dict of random weights; CTC without a rectifier."""
    images, frames = jnp.zeros((1, 32, 100, 3)), jnp.zeros((1, 4, HIDDEN))
    reader = AttentionReader(38, hidden=HIDDEN, feature_bias=False)
    parts = {
        "encoder": (ResNet(width=16, blocks=(1, 0, 0, 1)), (images,)),
        "projector": (BiLSTMProjector(hidden=HIDDEN), (jnp.zeros((1, 4, 16)),)),
        "decoder": (reader, (frames, None, 1)) if kind == "trba" else (Linear(37), (frames,)),
    }
    if kind == "trba":
        parts["rectifier"] = (TpsRectifier(), (images,))
    rng, flat = np.random.default_rng(0), {}
    for part, (module, arguments) in parts.items():
        for path, leaf in template(module, *arguments).items():
            collection, inner = path.split("/", 1)
            if part == "rectifier" and collection == "params":
                collection = "frozen_params"
            constant = {"scale": 1.0, "var": 1.0, "mean": 0.0}.get(inner.rpartition("/")[2])
            drawn = rng.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5
            whole = drawn if constant is None else np.full(leaf.shape, constant)
            flat[f"{collection}/{part}/{inner}"] = np.asarray(whole, np.float32)
    return export_checkpoint(KINDS[kind], flat)


@pytest.mark.parametrize("kind", ["trbc", pytest.param("trba", marks=pytest.mark.long)])
def test_fine_tuning_begins_with_what_it_reads_and_moves(
    kind: str,
    convert: Convert,  # noqa: F811
    tmp_path: Path,
) -> None:
    write_arrays(tmp_path / "published.npz", published(kind))
    assert convert(tmp_path / "published.npz", kind, tmp_path / "ours") == 0
    words_lmdb(tmp_path / "train", WORDS)
    config = finetune_recognizer.get_config()
    config.train.update(batch_size=8, steps=1, average=0.0, view_ops=0)
    config.train.source = (f"lmdb:{tmp_path / 'train'}",)
    config.benchmarks, config.eval_batch_size = str(tmp_path / "benchmark"), 9
    converted = Recognizer.from_pretrained(tmp_path / "ours", batch_size=9)
    images = [picture(word) for word in WORDS[:9]]
    expected = converted(images)
    assert {len(word.text) for word in expected} != {0}
    with open_session(tmp_path / "run", compilation_cache="off", stall_timeout=0) as session:
        task = prepare(evaluation_plan(config, devices=4), session, str(tmp_path / "ours"))
        assert task.chosen is not None
        loop = task.plan.loop
        feed = MemoryFeed({"inputs": np.zeros((1, 1))}, loop, 0)
        state = fitting.recognition_job(
            task, task.chosen, loop, feed, encoder=task.encoder,
            encode=fitting.encoding(task.encoder, frozen=False), decoder_params=task.decoder_params,
        ).fresh()  # fmt: skip
        encoder = dataclasses.replace(
            task.encoder, params=state.params["encoder"], batch_stats=state.batch_stats
        )
        start = dataclasses.replace(
            converted, encoder=encoder, decoder_params=state.params["decoder"]
        )
        assert start(images) == expected

        tuned = fitting.train_recognizer(task, task.chosen, fitting.Clock())
    assert tuned.head.charset == converted.head.charset
    before, after = (
        named_arrays({"e": r.encoder.params, "s": r.encoder.batch_stats, "d": r.decoder_params})
        for r in (converted, tuned)
    )
    assert before.keys() == after.keys()
    assert all(np.isfinite(array).all() for array in after.values())
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.split("/")[0] for name in moved} == {"e", "s", "d"}
    assert not [name for name in moved if name.startswith("e/rectifier")]
    assert len(moved) > len(before) / 2
