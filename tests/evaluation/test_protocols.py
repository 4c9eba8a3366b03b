"""Whole evaluations of a toy encoder, and the mistakes that are found before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.evaluate import common, finetune_ctc, frozen_attention, frozen_ctc
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import LmdbSource, write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.evaluation import fitting
from rcmstr_jax.evaluation.protocols import make_charset, run_evaluation
from rcmstr_jax.evaluation.words import choose_words
from rcmstr_jax.training.config_check import ConfigError
from rcmstr_jax.training.decoder_head import make_head

WORDS = ["cat", "Dog", "otter", "yak-7", "emu", "see", "bee", "ant", "gnu", "Ünder"]
BROKEN = 3  # record whose bytes are no image


def picture(text: str) -> bytes:
    canvas = np.full((32, 100, 3), 255, np.uint8)
    cv2.putText(canvas, text, (2, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
    return cv2.imencode(".png", canvas)[1].tobytes()


def words_lmdb(path: Path, texts: list[str]) -> None:
    images = [b"not an image" if i == BROKEN else picture(text) for i, text in enumerate(texts)]
    records = [Record(image, text, "test") for image, text in zip(images, texts, strict=True)]
    write_lmdb(path, records)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    words_lmdb(root / "train", WORDS * 2)
    words_lmdb(root / "benchmark/toy", WORDS[:7])
    words_lmdb(root / "benchmark/deep/other", [*WORDS[:5], "!?"])
    return root


def small(config: ConfigDict, data: Path) -> ConfigDict:
    config.compilation_cache = "off"
    config.benchmarks = str(data / "benchmark")
    config.eval_batch_size = 4
    config.decoder.hidden = 8
    config.train.source = (f"lmdb:{data / 'train'}",)
    config.train.labels = 1.0
    config.train.steps = 5
    config.train.batch_size = 8
    config.train.steps_per_call = 2
    config.train.log_every = 2
    return config


def vit(config: ConfigDict) -> ConfigDict:
    config.model.encoder = "vit"
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    config.model.image_width = 128
    return config


@pytest.fixture(scope="module")
def frozen(data, tmp_path_factory) -> tuple[dict[str, Any], Path, list[str]]:
    workdir, lines = tmp_path_factory.mktemp("frozen"), []
    config = vit(small(frozen_ctc.get_config(), data))
    results = run_evaluation(config, workdir, "random", log=lines.append, command="the command")
    return results, workdir, lines


def test_every_word_of_every_set_is_scored(frozen) -> None:
    results, workdir, _ = frozen
    found = {entry["name"]: entry for entry in results["sets"]}
    assert {name: entry["num_words"] for name, entry in found.items()} == {
        "deep/other": 5,
        "toy": 7,
    }
    # "!?" has no letter or digit; one image of each set cannot be decoded and counts as an error.
    assert found["deep/other"]["num_empty_labels_left_out"] == 1
    assert [entry["num_unreadable"] for entry in results["sets"]] == [1, 1]
    assert results["weighted_mean"]["num_words"] == 12
    assert results["policies"]["symbols"]["num_words"] == 13
    lines = [json.loads(line) for line in (workdir / "predictions.jsonl").open()]
    assert [line["label"] for line in lines if line["set"] == "toy"] == WORDS[:7]
    broken = [line for line in lines if not line["readable"]]
    assert [(line["index"], line["prediction"]) for line in broken] == [(3, ""), (3, "")]
    faults = json.loads((workdir / "faults.json").read_text())
    assert faults["total"] == 3


def test_what_was_trained_on_is_stated(frozen) -> None:
    results, workdir, _ = frozen
    labels = results["train"]["labels"]
    assert (labels["available"], labels["outside_charset"], labels["unreadable"]) == (20, 2, 1)
    assert labels["trained_on"] == 17
    assert results["initialisation"] == "random_init" and results["seed"] == 0
    text = (workdir / "results.md").read_text()
    for part in ("the command", "17 words", "toy", "case-insensitive", "Seed 0"):
        assert part in text


def test_progress_is_told(frozen) -> None:
    _, workdir, lines = frozen
    assert any("step 5/5: loss" in line for line in lines)
    assert any("compiling" in line for line in lines)
    assert str(workdir / "results.json") in lines[-1]
    assert json.loads((workdir / "results.json").read_text()) == frozen[0]


def test_the_same_seed_reads_the_same_words(frozen, data, tmp_path) -> None:
    config = vit(small(frozen_ctc.get_config(), data))
    config.eval_batch_size = 5  # padding differs, what is read does not
    config.train.steps_per_call = 5
    again = run_evaluation(config, tmp_path, "random", log=lambda _: None)
    assert again["sets"] == frozen[0]["sets"]
    first, second = (folder / "predictions.jsonl" for folder in (frozen[1], tmp_path))
    assert first.read_text() == second.read_text()


def test_fine_tuning_of_the_cnn(data, tmp_path) -> None:
    config = small(finetune_ctc.get_config(), data)
    config.model.width, config.model.blocks = 16, (0, 0, 0, 0)
    config.train.labels = 8
    results = run_evaluation(config, tmp_path, "random", log=lambda _: None)
    assert results["protocol"] == "finetune"
    assert results["train"]["labels"]["trained_on"] in (7, 8)
    assert results["weighted_mean"]["num_words"] == 12


def test_attention_with_streamed_words(data, tmp_path) -> None:
    config = vit(small(frozen_attention.get_config(), data))
    config.train.memory_gib = 0.0
    config.decoder.charset = "36"
    lines: list[str] = []
    results = run_evaluation(config, tmp_path, "random", log=lines.append)
    assert any("streamed" in line for line in lines)
    assert results["decoder"] == "attention" and results["charset"] == 36
    assert results["train"]["labels"]["outside_charset"] == 4  # yak-7 and Ünder, twice each


def test_words_in_memory_keep_their_labels_when_a_broken_one_is_left_out(data) -> None:
    subset, texts, counts = choose_words(
        LmdbSource(data / "train"), labels=1.0, seed=0, charset=make_charset("94"), max_length=25
    )
    assert counts.trained_on == 18
    images, kept = fitting.load_images(
        subset, texts, image_size=(32, 100), batch_size=4, workers=0, counts=counts,
        faults=FaultLog(),
    )  # fmt: skip
    assert len(images) == len(kept) == counts.trained_on == 17
    for image, text in zip(images, kept, strict=True):
        png = np.frombuffer(picture(text), np.uint8)
        np.testing.assert_array_equal(image, cv2.imdecode(png, cv2.IMREAD_COLOR))


def test_streamed_feed_pairs_images_with_their_labels(data) -> None:
    config = small(common.get_config(), data)
    charset = make_charset("36")
    head = make_head("ctc", charset)
    subset, _, _ = choose_words(
        LmdbSource(data / "train"), labels=1.0, seed=0, charset=charset, max_length=25
    )
    feed = list(fitting.streamed_feed(subset, head, (32, 100), config, FaultLog()))
    assert [list(active) for _, _, active in feed] == [[True, True], [True, True], [True, False]]
    spelt = {head.targets([text.lower()])["tokens"].tobytes(): text for text in WORDS[:9]}
    for memory, rows, _ in feed:
        assert rows.tolist() == [list(range(8)), list(range(8, 16))]
        for image, tokens in zip(memory["inputs"], memory["tokens"], strict=True):
            png = np.frombuffer(picture(spelt[tokens.tobytes()]), np.uint8)
            np.testing.assert_array_equal(image, cv2.imdecode(png, cv2.IMREAD_COLOR))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("protocol", "probe", "protocol='probe'.*frozen, finetune"),
        ("policy", "loose", "policy='loose'.*alphanumeric"),
        ("decoder.name", "rnn", "decoder.name='rnn'.*ctc, attention"),
        ("decoder.charset", "37", "37 characters"),
        ("decoder.charset", "no/such/file", "no/such/file"),
        ("train.feature_dtype", "int8", "train.feature_dtype='int8'.*bfloat16"),
        ("train.steps", 0, "train.steps=0: must be at least 1"),
        ("train.labels", 99, "train.labels=99.*20 words"),
        ("train.source", ("lmdb:no/such",), "no/such"),
        ("benchmarks", "no/such/root", "no/such/root"),
    ],
)
def test_mistakes_are_found_before_any_work(data, tmp_path, field, value, message) -> None:
    config = vit(small(common.get_config(), data))
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        run_evaluation(config, tmp_path, "random", log=lambda line: pytest.fail(line))


def test_training_on_the_benchmark_is_refused(data, tmp_path) -> None:
    config = small(common.get_config(), data)
    config.train.source = (f"lmdb:{data / 'benchmark/toy'}",)
    with pytest.raises(ConfigError, match="must not be trained on"):
        run_evaluation(config, tmp_path, "random")


def test_a_foreign_pretrained_folder(data, tmp_path) -> None:
    with pytest.raises(ConfigError, match="config.json is missing"):
        run_evaluation(small(common.get_config(), data), tmp_path, str(tmp_path))
