"""What the scene preset adds: pairs of colours, lengths, codes, pieces, arcs and accents."""

from __future__ import annotations

import numpy as np
import pytest

from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.data.synthetic import RenderOptions, SyntheticSource
from rcmstr_jax.data.synthetic.background import draw_background, draw_grain
from rcmstr_jax.data.synthetic.colour import draw_pair, luminance
from rcmstr_jax.data.synthetic.fonts import Face, usable_faces
from rcmstr_jax.data.synthetic.geometry import View
from rcmstr_jax.data.synthetic.layout import lay_out
from rcmstr_jax.data.synthetic.lexicon import Lexicon, word_share
from rcmstr_jax.data.synthetic.options import ALPHABET

STILL = {
    "stretch": 0.0, "rotation": 0.0, "perspective": 0.0, "curvature": 0.0, "margin": 0.0,
    "crop": 0.0, "clutter": 0.0, "jitter": 0.0, "spacing": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def face() -> Face:
    return usable_faces(("packaged",), ALPHABET, 1, True)[0]


def _drawn(count: int = 400, **changes: object) -> list[str]:
    options = RenderOptions(**{"numbers": 0.0, "punctuation": 0.0, **changes})  # type: ignore[arg-type]
    lexicon = Lexicon(options)
    rng = np.random.default_rng(0)
    return [lexicon.draw(rng) for _ in range(count)]


def test_the_preset_renders_words_that_decode() -> None:
    source = SyntheticSource(options=RenderOptions.preset("scene", num_fonts=3))
    for index in range(30):
        record = source[index]
        assert record.text and decode_image(record.image, (32, 100)).std() > 0
    assert source[7] == SyntheticSource(options=source.options, faces=source.faces)[7]


def test_lengths_follow_the_typical_one() -> None:
    lengths = np.array([len(text) for text in _drawn(typical_length=4.8)])
    assert 4 <= np.median(lengths) <= 5.5 and 1.5 < lengths.std() < 3
    assert np.median([len(text) for text in _drawn(typical_length=9.0)]) >= 8


def test_pieces_are_parts_of_words_and_keep_to_the_split() -> None:
    texts = _drawn(cut_words=1.0, case="lower", split="train", typical_length=3.0)
    words = set(Lexicon(RenderOptions(case="lower")).words)
    assert np.mean([text in words for text in texts]) < 0.8
    assert all(word_share(text) >= 0.1 for text in texts)
    joined = "\n".join(word.lower() for word in words)
    assert all(text in joined for text in texts)


def test_codes_are_of_one_kind() -> None:
    texts = _drawn(codes=1.0, min_length=3, max_length=8)
    kinds = [
        np.mean([all(kind(c) for c in text) for text in texts])
        for kind in (str.isupper, str.islower, str.isdigit)
    ]
    assert sum(kinds) > 0.8 and min(kinds) > 0.08
    assert all(3 <= len(text) <= 8 and text.isalnum() for text in texts)


def test_pairs_of_colours_are_those_of_crops() -> None:
    rng = np.random.default_rng(0)
    pairs = [draw_pair(rng) for _ in range(600)]
    colours = np.array(pairs)
    assert colours.shape == (600, 2, 3) and colours.min() >= 0 and colours.max() <= 255
    difference = np.array([luminance(ink) - luminance(ground) for ink, ground in pairs])
    assert 0.3 < np.mean(difference > 0) < 0.7, "light on dark and dark on light"
    assert 0.25 < np.median(np.abs(difference)) < 0.6


def test_a_background_takes_the_colour_that_it_is_given() -> None:
    rng, wanted = np.random.default_rng(0), np.array([200, 40, 90], np.float32)
    options = RenderOptions(texture=0.0)
    picture, colour = draw_background(rng, (20, 60), options, wanted)
    np.testing.assert_array_equal(picture, np.broadcast_to(wanted, (20, 60, 3)))
    np.testing.assert_array_equal(colour, wanted)
    grain = draw_grain(rng, (20, 60), options)
    assert grain.shape == (20, 60, 3) and 3 < grain.std() < 25


def test_accents_are_some_of_the_letters(face: Face) -> None:
    options = RenderOptions(**{**STILL, "accent": 1.0})
    rng = np.random.default_rng(0)
    for _ in range(10):
        layout = lay_out(rng, face, "accent", options)
        assert layout.accent is not None and layout.accent.shape == layout.mask.shape
        assert (layout.accent <= layout.mask).all()
        assert 0.05 < layout.accent.sum() / layout.mask.sum() < 0.8
    assert lay_out(rng, face, "a", options).accent is None, "one letter has no others"


def test_an_arc_turns_letters_and_loses_none(face: Face) -> None:
    options = RenderOptions(**{**STILL, "arc": 1.0})
    heights = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        layout = lay_out(rng, face, "circular", options)
        view = View(rng, layout.box, options)
        x, y = np.meshgrid(np.linspace(-40, 40, 9), np.linspace(-15, 15, 5))
        for flat, back in zip((x, y), view._flatten(*view._curve(x, y)), strict=True):
            np.testing.assert_allclose(back, flat, atol=1e-3)
        shown = view.warp(layout.mask)
        ink = float(shown.astype(np.float64).sum()) / view.scale**2
        # A circle stretches what lies outside the middle line and squeezes what lies inside.
        assert ink == pytest.approx(float(layout.mask.astype(np.float64).sum()), rel=0.2)
        heights.append(view.size[0] / view.size[1])
    left, top, right, bottom = layout.box
    assert min(heights) > 1.05 * (bottom - top) / (right - left), "an arc is higher than its word"


def test_what_is_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"RenderOptions.arc = 1.5: give a value from 0 to 1"):
        RenderOptions(arc=1.5)
    with pytest.raises(ValueError, match="RenderOptions.typical_length = -1"):
        RenderOptions(typical_length=-1)
