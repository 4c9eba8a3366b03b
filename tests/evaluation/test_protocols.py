"""Whole evaluations of a toy encoder, and the mistakes that are found before any work."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import cv2
import jax
import lmdb
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import (
    common,
    compact,
    finetune_ctc,
    finetune_transformer,
    frozen_attention,
    frozen_ctc,
    score,
)
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import LmdbSource, write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.evaluation.protocols import run_evaluation
from rcmstr_jax.recognition import feeds
from rcmstr_jax.recognition.heads import make_charset, make_head
from rcmstr_jax.recognition.words import choose_words
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.plan import evaluation_plan
from tests.recognition.toy_words import WORDS, picture, words_lmdb


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
    config.train.steps, config.train.passes = 5, 0.0
    config.train.batch_size = 8
    config.train.steps_per_call = 2
    config.train.log_every = 2
    return config


def vit(config: ConfigDict) -> ConfigDict:
    config.model.encoder = "vit"
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    config.model.image_width = 128
    return config


def evaluate(config: ConfigDict, workdir: Path, pretrained: str = "random", **options):
    plan = evaluation_plan(config, devices=jax.device_count())
    return dataclasses.asdict(run_evaluation(plan, workdir, pretrained, **options))


@pytest.fixture(scope="module")
def frozen(data, tmp_path_factory) -> tuple[dict[str, Any], Path, str]:
    workdir, printed = tmp_path_factory.mktemp("frozen"), io.StringIO()
    config = vit(small(frozen_ctc.get_config(), data))
    with contextlib.redirect_stdout(printed):
        results = evaluate(config, workdir, command="the command")
    return results, workdir, printed.getvalue()


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
    _, workdir, printed = frozen
    log = (workdir / "log.txt").read_text()
    assert re.search(r"step 5/5 .*loss \d", log) and "compiling" in log
    assert str(workdir / "results.json") in printed.splitlines()[-1]
    assert json.loads((workdir / "results.json").read_text()) == frozen[0]


def test_the_same_seed_reads_the_same_words(frozen, data, tmp_path) -> None:
    config = vit(small(frozen_ctc.get_config(), data))
    config.eval_batch_size = 5  # padding differs, what is read does not
    config.train.steps_per_call = 5
    again = evaluate(config, tmp_path)
    assert again["sets"] == frozen[0]["sets"]
    first, second = (folder / "predictions.jsonl" for folder in (frozen[1], tmp_path))
    assert first.read_text() == second.read_text()


def test_a_finished_run_is_scored_again_and_another_refused(frozen, data) -> None:
    results, workdir, _ = frozen
    config = vit(small(frozen_ctc.get_config(), data))
    before = (workdir / "log.txt").read_text()
    again = evaluate(config, workdir, command="the command")
    log = (workdir / "log.txt").read_text().removeprefix(before)
    assert "is finished" in log and "compiling" not in log
    assert {**again, "seconds": 0} == {**results, "seconds": 0}
    assert not (workdir / "checkpoints").exists()
    config.train.learning_rate = 1.0
    with pytest.raises(
        ConfigError, match=r"another run \(train.learning_rate was 0.0005, is 1.0\)"
    ):
        evaluate(config, workdir)


def test_a_saved_recogniser_is_scored_on_whatever_lies_there(frozen, data, tmp_path) -> None:
    root = tmp_path / "found"
    words_lmdb(root / "new/words", WORDS[:7])
    write_lmdb(root / "unlabelled", [Record(picture("x"), None, "test")])
    for name, key in (("empty", b"num-samples"), ("foreign", b"other")):
        (root / name).mkdir()
        with lmdb.open(str(root / name), map_size=1 << 20) as env, env.begin(write=True) as txn:
            txn.put(key, b"0")
    config = score.get_config("test")
    config.compilation_cache, config.benchmarks = "off", str(root)
    results = evaluate(config, tmp_path / "scores", str(frozen[1]))
    found = {entry["name"]: entry for entry in results["sets"]}
    assert set(found) == {"new/words", "unlabelled", "empty", "foreign"}
    assert found["new/words"]["num_unreadable"] == 1 and found["new/words"]["fault"] == ""
    assert "is empty" in found["empty"]["fault"] and found["empty"]["num_words"] == 0
    assert "another layout" in found["foreign"]["fault"]
    assert "no usable labels" in found["unlabelled"]["fault"]
    assert results["weighted_mean"]["num_words"] == 7 and results["macro_average"]["num_sets"] == 1
    # What the recogniser was trained on is still stated.
    assert results["train"] == frozen[0]["train"] and results["protocol"] == "frozen"
    lines = [json.loads(line) for line in (tmp_path / "scores/predictions.jsonl").open()]
    own = [json.loads(line) for line in (frozen[1] / "predictions.jsonl").open()]
    own = [line for line in own if line["set"] == "toy"]
    for line, other in zip(lines, own, strict=True):
        assert line["prediction"] == other["prediction"]
        assert 0 <= line["confidence"] <= 1
        assert len(line["character_confidences"]) == len(line["prediction"])
    report = (tmp_path / "scores/results.md").read_text()
    assert "is empty" in report and "another layout" in report and "no usable labels" in report


@pytest.mark.parametrize(("name", "message"), [("nothing", "no LMDB"), ("absent", "not exist")])
def test_scoring_where_nothing_lies(frozen, tmp_path, name, message) -> None:
    (tmp_path / "nothing").mkdir()
    config = score.get_config("test")
    config.benchmarks = str(tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        evaluate(config, tmp_path / "scores", str(frozen[1]))


def test_fine_tuning_with_a_transformer_and_validation(data, tmp_path) -> None:
    config = vit(small(finetune_transformer.get_config("test"), data))
    config.train.validate_every = 2
    results = evaluate(config, tmp_path)
    train = results["train"]
    assert results["decoder"] == "transformer" and train["validation_words"] in (5, 6, 7, 8)
    assert set(train["validation"]) == {"word_accuracy", "one_minus_ned"}
    # 20 words, 8 of them held back.
    counts = train["labels"]
    assert counts["examined"] == 12
    curve = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    steps = [line["step"] for line in curve if "validation/word_accuracy" in line]
    assert steps == [2, 4, 5]


def test_fine_tuning_of_the_cnn(data, tmp_path) -> None:
    config = small(finetune_ctc.get_config(), data)
    config.model.width, config.model.blocks = 16, (0, 0, 0, 0)
    config.train.labels = 8
    results = evaluate(config, tmp_path)
    assert results["protocol"] == "finetune"
    assert results["train"]["labels"]["trained_on"] in (7, 8)
    assert results["weighted_mean"]["num_words"] == 12


def test_the_compact_recogniser_validates_on_words_of_other_sources(data, tmp_path) -> None:
    words_lmdb(tmp_path / "held_out", WORDS[:6])
    config = small(compact.get_config("test"), data)
    config.train.validation = 5
    config.train.validation_source = (f"lmdb:{tmp_path / 'held_out'}",)
    train = evaluate(config, tmp_path / "run")["train"]
    assert train["labels"]["examined"] == 20, "no word to train on is kept back"
    assert train["validation_words"] == 5
    config.train.validation_source = config.train.source
    with pytest.raises(ConfigError, match="twice: name every source once"):
        evaluate(config, tmp_path / "refused")


def test_attention_with_streamed_words(data, tmp_path) -> None:
    config = vit(small(frozen_attention.get_config(), data))
    config.train.memory_gib = 0.0
    config.decoder.charset = "36"
    results = evaluate(config, tmp_path)
    assert "streamed" in (tmp_path / "log.txt").read_text()
    assert results["decoder"] == "attention" and results["charset"] == 36
    assert results["train"]["labels"]["outside_charset"] == 4  # yak-7 and Жук, twice each


def test_words_in_memory_keep_their_labels_when_a_broken_one_is_left_out(data) -> None:
    chosen = choose_words(
        LmdbSource(data / "train"), labels=1.0, seed=0, charset=make_charset("94"), max_length=25,
        faults=FaultLog(),
    )  # fmt: skip
    counts = chosen.counts
    assert counts.trained_on == 18
    plan = evaluation_plan(small(common.get_config(), data))
    plan = dataclasses.replace(plan, eval_batch_size=4, workers=0)
    images, kept = feeds.load_images(chosen, plan, (32, 100))
    assert len(images) == len(kept) == counts.trained_on == 17
    for image, text in zip(images, kept, strict=True):
        png = np.frombuffer(picture(text), np.uint8)
        np.testing.assert_array_equal(image, cv2.imdecode(png, cv2.IMREAD_COLOR))


def test_streamed_feed_pairs_images_with_their_labels(data) -> None:
    config = small(common.get_config(), data)
    charset = make_charset("36")
    head = make_head("ctc", charset)
    chosen = choose_words(
        LmdbSource(data / "train"), labels=1.0, seed=0, charset=charset, max_length=25,
        faults=FaultLog(),
    )  # fmt: skip
    plan = dataclasses.replace(evaluation_plan(config), seed=0, workers=0)
    feed = feeds.StreamedFeed(chosen, head, (32, 100), plan)
    with feed.batches(0) as batches:
        calls = list(itertools.islice(batches, 3))
    with feed.batches(2) as batches:  # goes on there
        for name, column in next(batches).items():
            np.testing.assert_array_equal(column, calls[1][name])
    spelt = {head.targets([text.lower()])["tokens"].tobytes(): text for text in WORDS[:9]}
    for at, call in enumerate(calls):
        assert call["index"].tolist() == [
            list(range(start, start + 8)) for start in (16 * at, 16 * at + 8)
        ]
        for image, tokens in zip(
            call["inputs"].reshape(16, 32, 100, 3), call["tokens"].reshape(16, -1), strict=True
        ):
            png = np.frombuffer(picture(spelt[tokens.tobytes()]), np.uint8)
            np.testing.assert_array_equal(image, cv2.imdecode(png, cv2.IMREAD_COLOR))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("protocol", "probe", r"config.protocol='probe'.*frozen, finetune, score"),
        ("policy", "loose", "config.policy='loose'.*alphanumeric"),
        ("decoder.name", "rnn", "config.decoder.name='rnn'.*ctc, linear, attention"),
        ("decoder.charset", "37", "37 characters"),
        ("decoder.charset", "no/such/file", "no/such/file"),
        ("train.feature_dtype", "int8", "config.train.feature_dtype='int8'.*bfloat16"),
        ("train.steps", 0, "config.train.passes=0.0 beside config.train.steps=0: give one"),
        ("train.layer_decay", 1.5, "config.train.layer_decay=1.5 must lie between 0 and 1"),
        (
            "train.average",
            1.0,
            "config.train.average=1.0 is out of range: set it between 0 and 0.9",
        ),
        ("train.patience", 3, "train.patience=3.*train.validation"),
        ("train.validation_source", ("lmdb:a",), "_source=.*set config.train.validation"),
        ("train.validation", 11, "train.validation=11.*holds 20 words"),
        ("decoder.beams", 2, "config.decoder.beams=2 belongs to config.decoder.name=transformer"),
        ("train.labels", 99.0, "train.labels=99.*20 words"),
        ("train.labels", 0.0, "config.train.labels=0.0: give a share"),
        ("train.labels", -1.0, "config.train.labels=-1.0: give a share"),
        ("train.labels", 2.5, "config.train.labels=2.5: give a share"),
        ("train.source", ("lmdb:no/such",), "no/such"),
        ("benchmarks", "no/such/root", "no/such/root"),
    ],
)
def test_mistakes_are_found_before_any_work(data, tmp_path, field, value, message) -> None:
    config = vit(small(common.get_config(), data))
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        evaluate(config, tmp_path)
    log = tmp_path / "log.txt"  # of a session, which mistakes in the config alone never reach
    assert not log.is_file() or not log.read_text()


def test_training_on_the_benchmark_is_refused(data, tmp_path) -> None:
    config = small(common.get_config(), data)
    config.train.source = (f"lmdb:{data / 'benchmark/toy'}",)
    with pytest.raises(ConfigError, match="must not be trained on"):
        evaluate(config, tmp_path)


def test_a_foreign_pretrained_folder(data, tmp_path) -> None:
    with pytest.raises(ConfigError, match="config.json is missing"):
        evaluate(small(common.get_config(), data), tmp_path, str(tmp_path))
