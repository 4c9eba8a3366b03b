"""Scores of damaged sets: every record that a set declares counts, and each fault is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import numpy as np
import pytest

from rcmstr_jax.data.benchmarks import resolve_benchmarks
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.evaluation import analysis
from rcmstr_jax.evaluation.scoring import SetResult, score_benchmarks, score_table
from rcmstr_jax.metrics import intervals
from rcmstr_jax.recognition.heads import Word
from tests.recognition.toy_words import picture

WORDS = 6


def damaged(path: Path, changes: dict[bytes, bytes | None]) -> None:
    """A set of six times "cat" with keys changed, or deleted for None."""
    write_lmdb(path, [Record(picture("cat"), "cat", "toy")] * WORDS)
    with lmdb.open(str(path), map_size=1 << 24, lock=False) as env, env.begin(write=True) as txn:
        for key, value in changes.items():
            txn.delete(key) if value is None else txn.put(key, value)


def read(root: Path, faults: FaultLog) -> list[SetResult]:
    """The sets below a root as read by one who always reads "cat"."""

    def reader(images: np.ndarray) -> list[Word]:
        return [Word("cat", 1.0, ())] * len(images)

    recognizer: Any = SimpleNamespace(encoder=SimpleNamespace(image_size=(32, 100)), reader=reader)
    found = resolve_benchmarks(root)
    options: dict[str, Any] = {"batch_size": 4, "workers": 0}
    return score_benchmarks(recognizer, found, faults=faults, **options)


@pytest.mark.parametrize(
    ("changes", "declared", "unreadable", "unlabelled", "reason"),
    [
        ({b"image-000000002": b"broken"}, WORDS, 1, 0, "not an image"),
        ({b"image-000000002": None}, WORDS, 1, 0, "missing image key"),
        ({b"label-000000002": b"\xc3("}, WORDS, 0, 1, "label is not UTF-8"),
        ({b"label-000000002": None}, WORDS, 0, 1, "no label"),
        ({b"num-samples": b"9"}, 9, 0, 3, "missing image key"),
    ],
)
def test_what_cannot_be_used_is_an_error(
    tmp_path: Path, changes, declared: int, unreadable: int, unlabelled: int, reason: str
) -> None:
    damaged(tmp_path / "damaged", changes)
    faults = FaultLog()
    (result,) = read(tmp_path, faults)
    score = result.score("alphanumeric")
    wrong = unreadable + unlabelled
    assert (score.num_words, score.correct) == (declared, declared - wrong)
    assert (score.unreadable, score.unlabelled, score.empty_labels) == (unreadable, unlabelled, 0)
    assert score.similarity == declared - wrong
    assert faults.counts() == {reason: wrong}
    # The lines that are kept say the same.
    lines = result.lines()
    assert [line["prediction"] for line in lines if not line["readable"]] == [""] * wrong
    found = analysis.analyse(lines, training_words=["cat"])
    assert sum(row.num_words for row in found.by_seen) == declared - unlabelled
    compared = intervals.compare_predictions(lines, lines)["damaged"].word_accuracy
    assert compared.first == pytest.approx(100 * (declared - wrong) / declared, abs=1e-4)
    assert score_table([result], "symbols").sets[0].num_without_label == unlabelled


def test_sets_without_labels_are_not_scored(tmp_path: Path) -> None:
    none = {b"label-%09d" % i: None for i in range(1, WORDS + 1)}
    damaged(tmp_path / "none", none)
    damaged(tmp_path / "strange", dict.fromkeys(none, b"\xc3("))
    faults = FaultLog()
    results = read(tmp_path, faults)
    said = [result.benchmark.fault.endswith("holds no usable labels") for result in results]
    assert said == [True, True]
    assert faults.counts() == {"label is not UTF-8": WORDS, "set not scored": 2}
