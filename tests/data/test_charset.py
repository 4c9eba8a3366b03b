"""Characters and tokens of both decoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcmstr_jax.data.charset import PRESETS, UNKNOWN_CHARACTER, Charset

ABC = Charset("abc")


@pytest.mark.parametrize("size", [36, 62, 94])
def test_presets_have_their_sizes(size: int) -> None:
    charset = Charset.preset(size)
    assert len(charset) == size == len(set(charset.characters))
    assert charset.num_ctc_classes == size + 4
    assert charset.num_attention_classes == size + 5
    assert PRESETS[94].startswith(charset.characters[:36])


def test_attention_tokens_by_hand() -> None:
    tokens, lengths = ABC.encode_attention(["ca b", "", "bä"], max_length=4)
    np.testing.assert_array_equal(
        tokens, [[2, 7, 5, 4, 6, 3], [2, 3, 0, 0, 0, 0], [2, 6, 1, 3, 0, 0]]
    )
    np.testing.assert_array_equal(lengths, [5, 1, 3])
    assert (ABC.pad_token, ABC.sos_token, ABC.eos_token) == (0, 2, 3)


def test_ctc_tokens_by_hand() -> None:
    tokens, lengths = ABC.encode_ctc(["ca", "ä b"], max_length=3)
    np.testing.assert_array_equal(tokens, [[6, 4, 1], [2, 3, 5]])
    np.testing.assert_array_equal(lengths, [2, 3])


def test_ctc_reading_joins_repeats_before_it_drops_blanks() -> None:
    assert ABC.decode_ctc([[4, 4, 0, 4, 5], [0, 3, 3, 6, 6], [0, 0, 0, 0, 0]]) == ["aab", " c", ""]
    assert ABC.decode_ctc([[1, 2, 0, 4]]) == [UNKNOWN_CHARACTER + "a"]
    assert ABC.decode_ctc([[1, 2, 0, 4]], specials=True) == ["[PAD][UNK]a"]


@given(st.lists(st.text(alphabet="abc ", max_size=6), max_size=4))
def test_reading_undoes_encoding(words: list[str]) -> None:
    tokens, lengths = ABC.encode_ctc(words, 6)
    separated = np.zeros((len(words), 12), int)
    separated[:, ::2] = np.where(np.arange(6) < lengths[:, None], tokens, 0)
    assert ABC.decode_ctc(separated) == words


def test_long_words_are_refused_by_name() -> None:
    for encode in (ABC.encode_attention, ABC.encode_ctc):
        with pytest.raises(ValueError, match="'abca' has 4 characters, max_length=3"):
            encode(["a", "abca"], 3)


def test_file_of_characters(tmp_path: Path) -> None:
    path = tmp_path / "characters.txt"
    path.write_text("ab\nß\n", encoding="utf-8")
    assert Charset.from_file(path).characters == "abß"
    path.write_text("aba", encoding="utf-8")
    with pytest.raises(ValueError, match=r"characters.txt.*'a'.*more than once"):
        Charset.from_file(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="not UTF-8"):
        Charset.from_file(path)


@pytest.mark.parametrize(("characters", "message"), [("", "empty"), ("a b", "white space")])
def test_no_charset(characters: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Charset(characters)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="37.*36, 62, 68, 94"):
        Charset.preset(37)


@pytest.mark.parametrize(
    ("charset", "text", "normal"),
    [
        (Charset.preset(36), "AbC", "abc"),
        (Charset.preset(62), "AbC", "AbC"),
        (Charset.preset(94), " Ünder\n", "Under"),
        (Charset.preset(94), "e\u0301t\u00e9", "ete"),  # a combining accent, and a composed one
        (Charset("été"[:2]), "e\u0301t", "ét"),  # the charset has the accented letter
        (Charset.preset(94), "ﬁn", "fin"),
        (Charset.preset(94), "Ａ１", "A1"),
        (Charset.preset(94), "l’eau–“x”", 'l\'eau-"x"'),
        (Charset.preset(36), "l’eau", "l’eau"),  # no quote to replace it with
        (Charset.preset(36), "ЖУК", "жук"),
    ],
)
def test_labels_are_normalised_for_the_charset(charset: Charset, text: str, normal: str) -> None:
    assert charset.normalize(text) == normal
    assert charset.normalize(normal) == normal
    assert charset.lacks(normal) == any(c not in charset.characters for c in normal)


def test_the_space_is_in_every_charset() -> None:
    assert not ABC.lacks("a b") and ABC.lacks("a-b")
