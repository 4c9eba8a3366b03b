"""Words of other scripts: every letter in its place, joined where it joins, or a refusal."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import features

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.synthetic import RenderOptions, SyntheticSource
from rcmstr_jax.data.synthetic import fonts as fonts_module
from rcmstr_jax.data.synthetic.fontfiles import find_fonts
from rcmstr_jax.data.synthetic.fonts import FontBook, needs_shaping, usable_faces
from rcmstr_jax.data.synthetic.layout import glyph, lay_out, set_line
from rcmstr_jax.data.synthetic.lexicon import Lexicon

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
HEBREW = "אבגדהוזחטיכלמנסעפצקרשתםןףץך"
ARABIC = "ابتسلمنيهودر"
DEVANAGARI = "कखगतनमरलसहिाीे्"
needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason="Pillow without RAQM")


def face_of(alphabet: str, font: str = str(DEJAVU)):
    return usable_faces((font,), alphabet, 1, False)[0]


@pytest.mark.parametrize(
    ("language", "letters"),
    [
        ("ru", "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"),
        ("el", "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ"),
        ("fr", "abcdefghijklmnopqrstuvwxyzàâçéèêëîïôùûœ'-"),
    ],
)
def test_words_of_a_charset_file(language: str, letters: str, tmp_path: Path) -> None:
    file = tmp_path / "charset.txt"
    file.write_text(letters + "\n", encoding="utf-8")
    options = RenderOptions(
        alphabet_from=str(file), words_from=f"wordfreq:{language}", lexicon_size=2000,
        fonts=(str(DEJAVU),), case="as_given",
    )  # fmt: skip
    source = SyntheticSource(0, 30, options)
    texts = [source[i].text for i in range(30)]
    charset = Charset.from_file(file)
    assert all(text and not charset.lacks(charset.normalize(text)) for text in texts)
    assert len(set(texts)) > 15 and any(not text.isascii() for text in texts if text)
    # What is written beside rendered words needs no file.
    assert RenderOptions(**options.__dict__) == options and options.alphabet == letters


@needs_raqm
def test_hebrew_stands_from_right_to_left() -> None:
    """The first letter of a word is the rightmost one."""
    face = face_of(HEBREW)
    word = set_line(face, "אל")
    first, second = set_line(face, "א"), set_line(face, "ל")
    height, width = first.shape
    assert np.abs(word[-height:, -width:].astype(int) - first).mean() < 8
    assert np.abs(word[:, : second.shape[1]].astype(int)[-second.shape[0] :] - second).mean() < 8
    assert np.abs(word[-height:, :width].astype(int) - first).mean() > 30


@needs_raqm
def test_arabic_letters_join() -> None:
    face = face_of(ARABIC)
    word = set_line(face, "سلم")
    alone = sum(glyph(face, c)[0].shape[1] for c in "سلم")
    assert word.shape[1] < 0.9 * alone
    # One stroke runs through the word: no column without ink.
    assert (word.max(axis=0) > 60).all()


@needs_raqm
def test_devanagari_vowels_stand_before_and_above() -> None:
    """The sign of a short i is written before the consonant that it is spoken after."""
    face = usable_faces(("packaged",), DEVANAGARI, 1, False)[0]
    assert set_line(face, "कि").shape != set_line(face, "क").shape
    stem = glyph(face, "क")[0].shape[1]
    syllable = set_line(face, "कि")
    columns = np.flatnonzero(syllable[-6:].max(axis=0) > 100)
    assert columns.min() < syllable.shape[1] - stem + 4
    # A virama joins two consonants into one.
    assert set_line(face, "क्त").shape[1] < 0.95 * set_line(face, "कत").shape[1]


@needs_raqm
@pytest.mark.parametrize("letters", [HEBREW, ARABIC, DEVANAGARI])
def test_such_words_go_through_the_whole_renderer(letters: str) -> None:
    options = RenderOptions.preset(
        "scene", alphabet=letters, fonts=("packaged",), num_fonts=1, random_words=1.0, max_length=6,
        accent=1.0, clutter=1.0,
    )  # fmt: skip
    source = SyntheticSource(0, 6, options)
    for i in range(6):
        record = source[i]
        assert record.text and set(record.text) <= set(letters) and len(record.image) > 300


def test_what_needs_shaping() -> None:
    assert all(map(needs_shaping, ["שלום", "سلام", "हिन्दी", "ไทย้", "e\u0301"]))
    assert not any(map(needs_shaping, ["abc", "Größe", "мир", "ώρα", "中文", "かな", "tiếng"]))


def test_without_the_library_they_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(fonts_module.features, "check", lambda name: name != "fribidi")
    options = RenderOptions(alphabet=HEBREW, fonts=(str(DEJAVU),), random_words=1.0)
    with pytest.raises(ValueError, match="alphabet holds 'א'.* finds no fribidi .*reversed"):
        SyntheticSource(0, 5, options)
    SyntheticSource(0, 5, RenderOptions(fonts=(str(DEJAVU),), random_words=1.0))


def test_letters_that_no_face_shows_are_named() -> None:
    with pytest.raises(ValueError, match="no usable font .*'中文'; name a font"):
        FontBook(RenderOptions(alphabet="中文", fonts=(str(DEJAVU),)))
    with pytest.raises(ValueError, match="none of 1 faces shows '文'"):
        FontBook(RenderOptions(alphabet="abcdefghij文", fonts=(str(DEJAVU),)))


def test_chinese_with_a_font_that_has_it(tmp_path: Path) -> None:
    """A stand-in for Noto Sans SC: its name, and four shapes at Chinese letters."""
    letters = "中文字符"
    font = TTFont(DEJAVU)
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap = {
                ord(new): table.cmap[ord(old)] for new, old in zip(letters, "ЖЯЩЮ", strict=True)
            }
    font.save(tmp_path / "NotoSansSC-Regular.ttf")
    assert not find_fonts([str(tmp_path)]) and len(find_fonts([str(tmp_path)], latin=False)) == 1
    (tmp_path / "words.txt").write_text("中文\n字符\n文字", encoding="utf-8")
    options = RenderOptions(
        alphabet=letters, fonts=(str(tmp_path),), words_from=str(tmp_path / "words.txt")
    )
    source = SyntheticSource(0, 9, options)
    assert {source[i].text for i in range(9)} <= {"中文", "字符", "文字"}
    face = source.faces[0]
    assert set_line(face, "中文").shape[1] > set_line(face, "中").shape[1]


def test_words_that_are_asked_for() -> None:
    with pytest.raises(ValueError, match="words_from = 'wordfreq:xx': wordfreq has ar, "):
        Lexicon(RenderOptions(words_from="wordfreq:xx"))
    with pytest.raises(ValueError, match=r"alphabet_from = '/no.txt' is no file"):
        RenderOptions(alphabet_from="/no.txt")
    rng = np.random.default_rng(0)
    layout = lay_out(rng, face_of(HEBREW), "שלום", RenderOptions(alphabet=HEBREW, accent=1.0))
    assert layout.accent is None  # not of one letter, which has no ink of its own
    assert unicodedata.is_normalized("NFC", HEBREW)
