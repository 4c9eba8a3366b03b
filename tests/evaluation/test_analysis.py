"""What is read out of predictions.jsonl, against cases counted by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rcmstr_jax.evaluation import analysis
from rcmstr_jax.metrics.confusions import Confusion
from rcmstr_jax.runtime.files import from_json


def line(label: str | None, guess: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"set": "S", "index": index, "label": label, "prediction": guess} | more


def test_rows_by_length_source_and_training() -> None:
    lines = [
        line("ab", "ab"),
        line("AB!", "ax", 1),
        line("abc", "abc", 2, set="T"),
        line("x" * 20, "", 3, set="T"),
        line("?", "?", 4),  # symbols only: nothing to score
        line(None, "", 5, set="U", readable=False),  # an error of no length, neither seen nor not
    ]
    found = analysis.analyse(lines, training_words=["AB", "no"])
    assert [(r.group, r.num_words, r.word_accuracy) for r in found.by_length] == [
        (2, 2, 50.0),
        (3, 1, 100.0),
        (analysis.LONGEST_ROW, 1, 0.0),
    ]
    assert [(r.group, r.num_words) for r in found.by_source] == [
        *(("S", 2), ("T", 2)),
        ("U", 1),
    ]
    assert found.by_source[2].word_accuracy == 0.0
    # ax for ab: one edit in two characters; x twenty times missed.
    assert found.by_source[0].one_minus_ned == 75.0
    assert found.by_source[1].character_accuracy == pytest.approx(100 * 3 / 23, abs=1e-4)
    assert [(r.group, r.num_words) for r in found.by_seen] == [("seen", 2), ("unseen", 2)]
    assert analysis.analyse(lines, training_words=None).by_seen is None
    written = json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert from_json(analysis.Analysis, json.loads(written)) == found


def test_calibration_by_hand() -> None:
    """Bins (0.8, 0.9] and (0, 0.1]: gaps |0.85 - 0.5| of 2 words and |0.05 - 0| of 1."""
    found = analysis.calibration([(0.8 + 0.05, True), (0.85, False), (0.05, False)])
    assert found is not None
    assert found.ece == pytest.approx(100 * (0.35 * 2 + 0.05) / 3, abs=1e-3)
    assert [(b.low, b.high, b.num_words) for b in found.bins] == [
        (0, 10, 1),
        (80, 90, 2),
    ]
    assert found.bins[1].accuracy == 50.0


def test_calibration_at_its_ends() -> None:
    sure = analysis.calibration([(1.0, True), (0.0, False), (0.1, True)])
    assert sure is not None and sure.ece == pytest.approx(100 * 0.9 / 3, abs=0.01 * 100)
    assert [b.high for b in sure.bins] == [10, 100]  # 0.1 belongs to the bin that it ends
    assert analysis.calibration([]) is None
    with pytest.raises(ValueError, match=r"confidence=1\.5"):
        analysis.calibration([(1.5, True)])


def test_words_without_image_or_confidence_stay_out_of_the_calibration() -> None:
    lines = [
        line("ab", "", confidence=0.0, readable=False),
        line("ab", "ab", 1, confidence=0.95),
        line("ab", "ab", 2, confidence=None),
    ]
    found = analysis.analyse(lines, training_words=None).calibration
    assert found.num_words == 1 and found.ece == pytest.approx(5.0)
    assert analysis.analyse([line("a", "a")], training_words=None).calibration is None


def test_confusions_by_hand() -> None:
    lines = [
        line("c0de", "code"),  # 0 -> o
        line("b0b", "bob", 1),  # 0 -> o
        line("0", "0", 2),
        line("ab", "a", 3),  # b missed
        line("ab", "xab", 4),  # x too many
        line("é", "", 5, readable=False),
        line("がる", "がろ", 6),
    ]
    found = analysis.confusions(lines, "alphanumeric")
    assert found[0] == Confusion("0", "o", 2, 66.6667)
    # Ties in the order of the characters; "" sorts first.
    assert [(c.label, c.prediction) for c in found[1:]] == [
        ("", "x"),
        ("b", ""),
        ("る", "ろ"),
    ]
    assert found[1].share is None and found[2].share == 25.0


def test_of_several_shortest_alignments_one_is_taken() -> None:
    """Of "ab" and "ba" either letter may have stayed, or both been replaced: two edits each way."""
    found = analysis.confusions([line("ab", "ba")], "alphanumeric")
    assert [(row.label, row.prediction) for row in found] == [("", "b"), ("b", "")]
    assert [row.count for row in found] == [1, 1]


def test_reading_predictions(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(line("é", "e")) + "\n", encoding="utf-8")
    assert analysis.read_predictions(tmp_path) == analysis.read_predictions(path)
    assert analysis.read_predictions(path)[0]["label"] == "é"
    path.write_text('{"set": "S", "index": 0, "label": "a"}\n')
    with pytest.raises(ValueError, match="line 1: lacks prediction"):
        analysis.read_predictions(path)
    path.write_text("[]\n")
    with pytest.raises(ValueError, match="line 1: no JSON object"):
        analysis.read_predictions(path)
    with pytest.raises(ValueError, match="give the workdir"):
        analysis.read_predictions(tmp_path / "none")


def test_training_words(tmp_path: Path) -> None:
    assert analysis.read_training_words(tmp_path) is None
    (tmp_path / "training_words.txt").write_text("ab\né\n", encoding="utf-8")
    assert analysis.read_training_words(tmp_path) == {"ab", "é"}
