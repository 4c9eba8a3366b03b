"""Recognisers given away: rounded where nothing is read otherwise, with a card of their figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rcmstr_jax.evaluation.report import write_results
from rcmstr_jax.interop.recognizers import export_recognizer, shorten, training_hours
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime.provenance import DataPosition
from tests.evaluation.test_runs import result
from tests.recognition.toy_recognizer import NOISE, toy_recognizer
from tests.recognition.toy_words import WORDS, words_lmdb

COMMAND = "/home/me/repo/launch/evaluate.py --config=compact --workdir=/home/me/runs/compact"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("words")
    words_lmdb(folder / "some", WORDS[:6])
    return f"lmdb:{folder}"


def finished(folder: Path, recognizer: Recognizer) -> Path:
    """The workdir of a finished evaluation with its results."""
    recognizer.save(folder, DataPosition("words", 0, 8))
    found = dataclasses.replace(result(7), command=COMMAND, labels_outside_charset=5)
    found.seconds.update(total=9.0, train=8.0)
    lines = [("SVT_10", "oak", "oak"), ("SVT_10", "elm", "eln"), ("SVT_10", "fir", "fir")]
    predictions = [
        {"set": name, "index": i, "label": label, "prediction": guess}
        for i, (name, label, guess) in enumerate(lines)
    ]
    write_results(folder, found, predictions)
    speed = [{"step": step, "speed/steps_per_second": 0.01} for step in (10, 20, 15, 20, 36)]
    (folder / "speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in speed))
    return folder


def test_weights_are_rounded_where_every_word_stays(words, tmp_path) -> None:
    source = finished(tmp_path / "run", toy_recognizer(scale=30.0))
    said = export_recognizer(source, tmp_path / "given", check=words, notes="Words of mine.\n")
    assert "float16: none of 5 images of" in said
    given, whole = (Recognizer.from_checkpoint(tmp_path / name) for name in ("given", "run"))
    assert [w.text for w in given(NOISE)] == [w.text for w in whole(NOISE)]
    kernel = whole.decoder_params["kernel"]
    np.testing.assert_array_equal(given.decoder_params["kernel"], kernel.astype(np.float16))
    assert given.decoder_params["kernel"].dtype == np.float32
    assert "run" not in given.description
    content = json.loads((tmp_path / "given/config.json").read_text())
    card = (tmp_path / "given/README.md").read_text()
    for part in (
        'from_pretrained("given")',
        "float16 numbers (none of 5 images of",
        content["sha256"],
        "| SVT_10 | 10 | 7 | 70.00 | [",  # the results', with the interval of the predictions
        "| hours | 1.0 |",
        "`launch/evaluate.py --config=compact --workdir=compact`",
        "Trained on `lmdb:words`.",
        "Words of mine.",
        "0123456789abcdefghijklmnopqrstuvwxyz",
        "- 5 of the scored words",
        "m as n (1)",
    ):
        assert part in card, (part, card)
    for name in ("config.json", "README.md"):
        text = (tmp_path / "given" / name).read_text()
        assert "/home" not in text and "/somewhere" not in text and "${" not in text


def test_weights_stay_whole_where_a_word_would_change(words, tmp_path) -> None:
    """Two classes are 1e-5 apart, which float16 does not see."""
    recognizer = toy_recognizer(characters="az")
    recognizer.decoder_params["kernel"] = np.zeros_like(recognizer.decoder_params["kernel"])
    bias = np.zeros(6, np.float32)
    bias[-2:] = 1.0, 1.00001
    recognizer.decoder_params["bias"] = bias
    source = finished(tmp_path / "run", recognizer)
    said = export_recognizer(source, tmp_path / "given", check=words)
    assert "float32: in float16 5 of 5 images" in said and "'z' as 'a'" in said
    given = Recognizer.from_checkpoint(tmp_path / "given")
    np.testing.assert_array_equal(given.decoder_params["bias"], bias)
    assert {word.text for word in given(NOISE)} == {"z"}
    assert "float32 numbers (in float16 5 of 5" in (tmp_path / "given/README.md").read_text()
    # A folder of weights is as good as a workdir; it has no results of its own.
    with pytest.raises(ValueError, match=r"given holds no results.json.*--scores"):
        export_recognizer(tmp_path / "given", tmp_path / "again")
    said = export_recognizer(tmp_path / "given", tmp_path / "again", scores=source)
    assert "float32: without --check" in said
    export_recognizer(source, tmp_path / "again")  # replaces the other
    with pytest.raises(ValueError, match="run exists and is no folder of weights: give a new one"):
        export_recognizer(tmp_path / "given", source, scores=source)


def test_hours_are_those_of_the_steps_that_count(tmp_path) -> None:
    assert training_hours(tmp_path) is None
    (tmp_path / "speed.jsonl").write_text(
        '{"step": 50, "speed/steps_per_second": 0.5}\n'
        '{"step": 40, "speed/steps_per_second": 0.5}\n'  # begun anew after a crash
        '{"step": 70, "speed/steps_per_second": 0.1}\n'
    )
    assert training_hours(tmp_path) == pytest.approx((100 + 200) / 3600)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("lmdb:/data/a b", "lmdb:a b"),
        ("lmdb:../data/words", "lmdb:../data/words"),
        ("/x/y/configs/evaluate/compact.py", "configs/evaluate/compact.py"),
        ("--workdir=/x/run --a='lmdb:/b/c/,lmdb:/d/e'", "--workdir=run --a='lmdb:c/,lmdb:e'"),
        ("100 / 2 words", "100 / 2 words"),
    ],
)
def test_folders_of_the_machine_are_left_out(text, short) -> None:
    assert shorten(text) == short
