"""Which words are drawn: alphabets, lengths, cases, splits, and what happens if none is left."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.data.synthetic.lexicon import Lexicon, word_share
from rcmstr_jax.data.synthetic.options import RenderOptions

PLAIN = {"numbers": 0.0, "punctuation": 0.0}


def draw(count: int = 300, **fields: object) -> list[str]:
    lexicon = Lexicon(RenderOptions(**fields))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    return [lexicon.draw(rng) for _ in range(count)]


def test_word_share_is_the_same_everywhere() -> None:
    # Written down once: another value would move words between train and test.
    assert word_share("house") == pytest.approx(0.7450247, abs=1e-6)
    assert word_share("12:30") == word_share("1230")


@settings(max_examples=50, deadline=None)
@given(st.text(string.ascii_letters + string.digits, min_size=1, max_size=12))
def test_word_share_ignores_case_and_punctuation(text: str) -> None:
    assert 0 <= word_share(text) < 1
    assert word_share(text) == word_share(text.upper()) == word_share(f"'{text.lower()}!'")


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(0, 8),
    st.sampled_from([string.ascii_lowercase, string.digits + "abc", RenderOptions().alphabet]),
)
def test_random_words_keep_to_alphabet_and_lengths(low: int, more: int, alphabet: str) -> None:
    words = draw(
        50, alphabet=alphabet, min_length=low, max_length=low + more, random_words=1.0, numbers=0.0
    )
    assert all(low <= len(word) <= low + more and set(word) <= set(alphabet) for word in words)
    assert len(set(words)) > 1


def test_lexicon_words_keep_to_alphabet_and_lengths() -> None:
    words = draw(alphabet=string.ascii_lowercase, min_length=3, max_length=6)
    assert all(3 <= len(word) <= 6 and word.islower() and word.isalpha() for word in words)
    upper = draw(alphabet=string.ascii_uppercase, max_length=8)
    assert all(word.isupper() for word in upper)


def test_numbers_and_punctuation_come_with_their_shares() -> None:
    words = draw(2000, numbers=0.3, punctuation=0.5)
    assert 0.25 < np.mean([any(c.isdigit() for c in word) for word in words]) < 0.36
    assert 0.3 < np.mean([any(c in string.punctuation for c in word) for word in words]) < 0.55
    assert not any(c.isdigit() for word in draw(500, numbers=0.0) for c in word)


def test_frequent_words_come_first_unless_drawn_evenly() -> None:
    common = {"the", "to", "and", "of", "in", "is", "for", "that", "you", "it", "on", "with"}
    share = [np.mean([word.lower() in common for word in draw(2000, frequency_power=p, **PLAIN)])
             for p in (0.0, 0.5, 1.0)]  # fmt: skip
    assert share[0] < 0.01 < share[1] < share[2]
    assert share[2] > 0.2


@pytest.mark.parametrize(
    ("case", "check"),
    [("lower", str.islower), ("upper", str.isupper), ("title", lambda w: w[:1].isupper())],
)
def test_case_is_what_is_asked_for(case: str, check) -> None:  # type: ignore[no-untyped-def]
    words = [word for word in draw(200, case=case, **PLAIN) if word.isalpha()]
    assert words and all(check(word) for word in words)


def test_train_and_test_words_are_disjoint_and_together_everything() -> None:
    fields = {"lexicon_size": 5000, "holdout": 0.2, **PLAIN}
    every, train, test = (
        set(Lexicon(RenderOptions(split=split, **fields)).words)  # type: ignore[arg-type]
        for split in ("all", "train", "test")
    )
    assert not train & test and train | test == every
    assert 0.17 < len(test) / len(every) < 0.23


def test_drawn_texts_keep_to_the_split() -> None:
    fields = {"numbers": 0.3, "random_words": 0.3, "punctuation": 0.4, "holdout": 0.1}
    train = draw(400, split="train", **fields)
    test = draw(400, split="test", **fields)
    assert all(word_share(word) >= 0.1 for word in train)
    assert all(word_share(word) < 0.1 for word in test)


def test_words_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("alpha\nBeta\ngamma's\nalpha\n\n", encoding="utf-8")
    words = draw(200, words_from=str(path), **PLAIN)
    assert {word.casefold() for word in words} == {"alpha", "beta", "gamma's"}
    assert "Beta" in words and "BETA" not in words  # capitals in the list are kept
    assert set(draw(100, words_from=str(path), case="as_given", **PLAIN)) == {
        "alpha", "Beta", "gamma's",
    }  # fmt: skip


def test_missing_or_foreign_word_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="words_from = .*no file; give a text file"):
        draw(1, words_from=str(tmp_path / "none.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        draw(1, words_from=str(tmp_path / "latin.txt"))


def test_no_word_left_says_what_was_asked_for() -> None:
    with pytest.raises(ValueError, match="no word is left of .*alphabet='xq'.*random_words=1"):
        draw(1, alphabet="xq", min_length=8)
    with pytest.raises(ValueError, match="RenderOptions.numbers = 1.0: no such text of 20 to 25"):
        draw(1, numbers=1.0, min_length=20)
    with pytest.raises(ValueError, match="add digits to alphabet or set numbers=0"):
        draw(1, numbers=1.0, alphabet="abc")
