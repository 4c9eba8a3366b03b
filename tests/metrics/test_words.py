"""Metrics against cases computed by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.metrics import words as metrics
from rcmstr_jax.metrics.words import Score, edit_similarity, normalize_text, score_words


@pytest.mark.parametrize(
    ("text", "policy", "expected"),
    [
        ("Hello, World!", "alphanumeric", "helloworld"),
        ("Hello, World!", "case_sensitive", "HelloWorld"),
        (" Hello! ", "symbols", "Hello!"),
        ("$%&", "alphanumeric", ""),
        ("", "symbols", ""),
        ("CAFÉ", "alphanumeric", "cafe"),
        ("naïve", "symbols", "naive"),
        ("ＡＢ１", "alphanumeric", "ab1"),
        ("ﬁne", "case_sensitive", "fine"),
        ("がる", "alphanumeric", "がる"),
        ("e\u0301a", "symbols", "ea"),
        ("x\ufffdy", "alphanumeric", "xy"),
    ],
)
def test_normalize_text(text: str, policy: str, expected: str) -> None:
    assert normalize_text(text, policy) == expected


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        ("", "", 1.0),
        ("", "abc", 0.0),
        ("abc", "", 0.0),
        ("abc", "abc", 1.0),
        ("kitten", "sitting", 1 - 3 / 7),
        ("ab", "ba", 0.0),
        ("cat", "cats", 0.75),
        ("é", "e", 0.0),
    ],
)
def test_edit_similarity(prediction: str, label: str, expected: float) -> None:
    assert edit_similarity(prediction, label) == pytest.approx(expected)


def levenshtein(a: str, b: str) -> int:
    """The textbook recurrence."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, old = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(old[j] + 1, row[-1] + 1, old[j - 1] + (x != y)))
    return row[-1]


@settings(max_examples=200, deadline=None)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edit_similarity_agrees_with_the_textbook(a: str, b: str) -> None:
    longest = max(len(a), len(b), 1)
    assert edit_similarity(a, b) == pytest.approx(1 - levenshtein(a, b) / longest)


def test_score_words_by_policy() -> None:
    predictions = ["Hello", "wor1d", "a-b", "", "x", "tail"]
    labels = ["hello", "world", "ab", "lost", "$$", "tail"]
    score = score_words(predictions, labels)
    # "$$" leaves nothing to read; right: hello, ab, tail; wor1d has 4 of 5, lost none.
    assert (score.num_words, score.correct, score.empty_labels) == (5, 3, 1)
    assert score.word_accuracy == pytest.approx(0.6)
    assert score.one_minus_ned == pytest.approx((1 + 0.8 + 1 + 0 + 1) / 5)
    strict = score_words(predictions, labels, policy="symbols")
    assert (strict.num_words, strict.correct, strict.empty_labels) == (6, 1, 0)
    assert strict.similarity == pytest.approx(0.8 + 0.8 + 2 / 3 + 0 + 0 + 1)
    cased = score_words(predictions, labels, policy="case_sensitive")
    assert (cased.num_words, cased.correct) == (5, 2)


def test_unreadable_images_are_errors_whatever_was_predicted() -> None:
    score = score_words(["a", "b", ""], ["a", "b", "c"], readable=[True, False, False])
    assert (score.num_words, score.correct, score.unreadable) == (3, 1, 2)
    assert score.similarity == 1.0


def test_records_without_a_label_are_errors_of_their_own_count() -> None:
    score = score_words(["a", "", ""], ["a", None, "c"], readable=[True, False, False])
    assert (score.num_words, score.correct, score.unreadable, score.unlabelled) == (3, 1, 1, 1)
    assert score.similarity == 1.0 and score.empty_labels == 0
    assert score.character_accuracy == pytest.approx(1 / 3)  # one character missed in each
    assert score.as_percent().num_without_label == 1


def test_standard_errors() -> None:
    predictions = ["ab", "ab", "ax", "xy"]
    score = score_words(predictions, ["ab"] * 4)
    assert score.word_accuracy_stderr == pytest.approx(math.sqrt(0.5 * 0.5 / 4))
    similarities = [1.0, 1.0, 0.5, 0.0]
    expected = statistics.stdev(similarities) / 2
    assert score.one_minus_ned_stderr == pytest.approx(expected)
    assert score.as_percent().one_minus_ned_stderr == pytest.approx(100 * expected, abs=1e-4)


def test_means_over_sets() -> None:
    first = score_words(["a"] * 3, ["a", "a", "b"])
    second = score_words(["a"], ["b"])
    nothing = score_words(["a"], ["!"])
    pooled = metrics.weighted_mean([first, second, nothing])
    assert (pooled.num_words, pooled.correct, pooled.empty_labels) == (4, 2, 1)
    plain = metrics.macro_average([first, second, nothing])
    assert plain.num_sets == 2
    assert plain.word_accuracy == pytest.approx(100 * (2 / 3 + 0) / 2, abs=1e-4)
    error = math.sqrt(2 / 3 * 1 / 3 / 3) / 2
    assert plain.word_accuracy_stderr == pytest.approx(100 * error, abs=1e-4)


def test_no_words_give_none_not_nan() -> None:
    assert Score().as_percent().word_accuracy is None
    assert metrics.macro_average([Score()]).word_accuracy is None
    one = score_words(["a"], ["a"]).as_percent()
    assert one.one_minus_ned_stderr is None and one.word_accuracy == 100.0


def test_scores_of_parts_add_up_to_the_score_of_the_whole() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcD!", k=rng.randrange(5))) for _ in range(60)]
    guesses = ["".join(rng.choices("abcD!", k=rng.randrange(5))) for _ in words]
    whole = score_words(guesses, words)
    parts = metrics.weighted_mean(
        score_words(guesses[i : i + 7], words[i : i + 7]) for i in range(0, 60, 7)
    )
    assert parts.as_percent() == whole.as_percent()


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="policy='loose'.*alphanumeric"):
        normalize_text("a", "loose")
    with pytest.raises(ValueError, match=r"predictions \(1\), labels \(2\)"):
        score_words(["a"], ["a", "b"])
