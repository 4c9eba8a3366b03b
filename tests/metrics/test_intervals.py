"""Bootstrap intervals and paired comparisons against cases computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcmstr_jax.metrics import intervals
from rcmstr_jax.metrics.words import judge_word, score_words
from tests.processes import Done, Processes


def lines(predictions: list[str], labels: list[str], name: str = "S") -> list[dict[str, Any]]:
    pairs = zip(labels, predictions, strict=True)
    return [
        {"set": name, "index": i, "label": label, "prediction": guess, "readable": True}
        for i, (label, guess) in enumerate(pairs)
    ]


def noisy(right: float, seed: int, count: int = 300) -> list[dict[str, Any]]:
    """A run that reads a share of its words right and gets one character wrong in the others."""
    rng = np.random.default_rng(seed)
    labels = [f"word{i}" for i in range(count)]
    guesses = [w if rng.random() < right else f"x{w[1:]}" for w in labels]
    return lines(guesses, labels)


def test_ratios_add_up_to_the_scores() -> None:
    labels, guesses = ["abcd", "ef", "!", "é"], ["abxd", "", "!", "e"]
    outcomes = [judge_word(g, w) for g, w in zip(guesses, labels, strict=True)]
    kept = [outcome for outcome in outcomes if outcome is not None]
    score = score_words(guesses, labels)
    for metric in intervals.METRICS:
        above, below = intervals.ratio(kept, metric)
        assert above.sum() / below.sum() == pytest.approx(getattr(score, metric))
    # abxd: 3 of 4; nothing for ef: 0 of 2; é equals e: 1 of 1.
    assert score.character_accuracy == pytest.approx(4 / 7)
    with pytest.raises(ValueError, match="metric='wer'"):
        intervals.ratio(kept, "wer")


def test_interval_of_a_coin_is_the_binomial_one() -> None:
    """For n = 400 and p = 1/2 the normal 95 % interval is 1/2 ± 1.96 * 0.025."""
    correct = np.tile([0.0, 1.0], 200)
    low, high = intervals.interval(intervals.bootstrap(correct, np.ones(400), resamples=8000))
    assert low == pytest.approx(45.1, abs=0.5) and high == pytest.approx(54.9, abs=0.5)


def test_interval_where_nothing_varies_or_nothing_is_there() -> None:
    assert intervals.interval(intervals.bootstrap(np.ones(5), np.ones(5))) == [100.0, 100.0]
    assert intervals.interval(intervals.bootstrap(np.ones(1), np.ones(1))) == [None, None]
    assert intervals.interval(intervals.bootstrap(np.zeros(0), np.zeros(0))) == [None, None]


def test_macro_average_weighs_sets_alike() -> None:
    """All of a large set right, none of a small one: 50 % plain, 90 % weighted, no spread in 50."""
    found = lines(["ab"] * 90, ["ab"] * 90, "A") + lines(["x"] * 10, ["ab"] * 10, "B")
    result = intervals.score_intervals(found, "alphanumeric")
    assert result["macro_average"]["word_accuracy"] == [50.0, 50.0]
    assert result["A"]["word_accuracy"] == [100.0, 100.0]
    low, high = result["weighted_mean"]["word_accuracy"]
    assert low is not None and high is not None and 80 < low < 90 < high < 98


def test_one_model_against_itself_makes_no_difference() -> None:
    run = noisy(0.6, seed=0)
    for found in intervals.compare_predictions(run, list(reversed(run))).values():
        assert found.first_only == found.second_only == 0
        for metric in intervals.METRICS:
            assert getattr(found, metric).difference == 0 and getattr(found, metric).interval == [
                0,
                0,
            ]


def test_two_seeds_give_an_interval_around_the_observed_difference() -> None:
    found = intervals.compare_predictions(noisy(0.6, seed=1), noisy(0.65, seed=2))["S"]
    for metric in intervals.METRICS:
        change = getattr(found, metric)
        low, high = change.interval
        assert low < change.difference < high
        assert change.difference == pytest.approx(change.second - change.first, abs=1e-3)


def test_macro_average_of_a_comparison() -> None:
    """A gains 10 of 100 words, B loses 5 of 10: +4.55 weighted, (10 - 50) / 2 = -20 plain."""
    first = lines(["a"] * 90 + ["x"] * 10, ["a"] * 100, "A") + lines(["b"] * 10, ["b"] * 10, "B")
    second = lines(["a"] * 100, ["a"] * 100, "A") + lines(["b"] * 5 + ["x"] * 5, ["b"] * 10, "B")
    found = intervals.compare_predictions(first, second)
    assert found["macro_average"].word_accuracy.difference == -20.0
    assert found["weighted_mean"].word_accuracy.difference == pytest.approx(500 / 110, abs=1e-4)
    low, high = found["macro_average"].word_accuracy.interval
    # B alone decides the width: half of the binomial one, 1.96 * sqrt(0.25 / 10) / 2.
    assert low == pytest.approx(-20 - 15.5, abs=3) and high == pytest.approx(-20 + 15.5, abs=3)


def test_pairing_narrows_the_interval() -> None:
    """Two runs that differ on few words: each varies by points, their difference hardly does."""
    run = noisy(0.5, seed=3)
    other = [line | {"prediction": line["label"]} if line["index"] < 3 else line for line in run]
    found = intervals.compare_predictions(run, other)["S"].word_accuracy
    alone = intervals.score_intervals(run, "alphanumeric")["S"]["word_accuracy"]
    assert alone[0] is not None and alone[1] is not None
    assert found.interval[1] - found.interval[0] < (alone[1] - alone[0]) / 3


def test_policies_decide_which_words_are_paired() -> None:
    first, second = lines(["Ab", "!"], ["ab", "!"]), lines(["ab", "?"], ["ab", "!"])
    loose = intervals.compare_predictions(first, second)["S"]
    assert loose.num_words == 1 and loose.second_only == 0
    strict = intervals.compare_predictions(first, second, policy="symbols")["S"]
    assert (strict.num_words, strict.first_only, strict.second_only) == (2, 1, 1)


@pytest.mark.parametrize(
    "second",
    [
        lines(["a"], ["a"]),
        lines(["a", "b"], ["a", "c"]),
        lines(["a", "b"], ["a", "b"], "other"),
        lines(["a", "b", "c"], ["a", "b", "c"]),
    ],
)
def test_runs_of_other_words_are_refused(second: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="not of the same words"):
        intervals.compare_predictions(lines(["a", "b"], ["a", "b"]), second)


def test_command(tmp_path: Path, repository: Path, processes: Processes) -> None:
    for name, run in (("a", noisy(0.3, seed=1)), ("b", noisy(0.9, seed=2))):
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in run)
        (tmp_path / name / "predictions.jsonl").write_text(text)

    def call(*arguments: str) -> Done:
        return processes.script(repository / "launch/compare.py", *arguments, cwd=tmp_path)

    out = tmp_path / "new/paired.json"
    done = call("--first=a", "--second=b/predictions.jsonl", f"--out={out}")
    assert done.returncode == 0, done.stderr
    table = json.loads(out.read_text())
    assert table["S"]["word_accuracy"]["difference"] > 40
    assert f"{table['S']['word_accuracy']['difference']:+.2f}" in done.stdout
    for arguments in (["--first=a"], ["--first=a", "--second=nothing"]):
        done = call(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
