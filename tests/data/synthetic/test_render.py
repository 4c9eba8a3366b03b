"""Rendered words: a function of seed and index, decodable, of the sizes asked for, readable."""

from __future__ import annotations

import io
import multiprocessing
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rcmstr_jax.data.records import RecordSource, is_endless
from rcmstr_jax.data.synthetic import RenderOptions, SyntheticSource
from rcmstr_jax.data.synthetic.colour import draw_against, draw_colour, luminance
from rcmstr_jax.data.synthetic.fonts import usable_faces
from rcmstr_jax.data.synthetic.geometry import View
from rcmstr_jax.data.synthetic.layout import PAD, _draw, _place, lay_out, set_line

SMALL = RenderOptions(num_fonts=6)
STILL = {
    "stretch": 0.0, "rotation": 0.0, "perspective": 0.0, "curvature": 0.0, "margin": 0.0,
    "crop": 0.0, "clutter": 0.0, "jitter": 0.0, "spacing": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(seed=5, options=SMALL)


def decoded(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def render_in_another_process(source: SyntheticSource) -> list[bytes]:
    return [source[index].image for index in (9, 2)]


def test_is_a_record_source(source: SyntheticSource) -> None:
    assert isinstance(source, RecordSource)
    assert is_endless(source) and len(source) == 2**40
    assert not is_endless(SyntheticSource(length=10, options=SMALL))
    record = source[7]
    assert record.text and record.source == "synthetic:5" and record.key == "7"


def test_same_seed_and_index_give_the_same_bytes_in_any_order(source: SyntheticSource) -> None:
    forwards = [source[index] for index in range(30)]
    other = SyntheticSource(seed=5, options=SMALL)
    backwards = [other[index] for index in reversed(range(30))]
    assert forwards == backwards[::-1]


def test_another_process_gives_the_same_bytes(source: SyntheticSource) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(render_in_another_process, (source,)) == render_in_another_process(source)


def test_pickling_keeps_everything_but_caches(source: SyntheticSource) -> None:
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source) and copy.faces == source.faces
    assert copy[123] == source[123]
    assert len(pickle.loads(pickle.dumps(SyntheticSource(length=4, options=SMALL)))) == 4


def test_seeds_and_indices_differ(source: SyntheticSource) -> None:
    images = {source[index].image for index in range(40)}
    assert len(images) == 40
    other = SyntheticSource(seed=6, options=SMALL)
    assert not images & {other[index].image for index in range(40)}


def test_far_indices_and_bounds(source: SyntheticSource) -> None:
    assert source[2**40 - 1].text
    for index in (-1, 2**40):
        with pytest.raises(IndexError, match="outside source 'synthetic:5'"):
            source[index]
    with pytest.raises(ValueError, match="seed = -1"):
        SyntheticSource(seed=-1, options=SMALL)
    with pytest.raises(ValueError, match="length = 0"):
        SyntheticSource(length=0, options=SMALL)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_images_decode_and_keep_to_their_heights(difficulty: str) -> None:
    options = RenderOptions.preset(difficulty, num_fonts=6)
    source = SyntheticSource(options=options)
    for index in range(40):
        image = decoded(source[index].image)
        height, width = image.shape[:2]
        assert height <= options.max_height + 1 and 8 <= width <= 481
        # Only words too long for the largest width come out lower than asked for.
        assert height >= options.min_height - 1 or width >= 470


def test_png_is_lossless_and_jpeg_is_jpeg() -> None:
    png = SyntheticSource(options=RenderOptions(num_fonts=3, encoding="png"))[0].image
    jpeg = SyntheticSource(options=RenderOptions(num_fonts=3))[0].image
    assert png.startswith(b"\x89PNG") and jpeg.startswith(b"\xff\xd8")


def test_words_stand_out_from_their_background() -> None:
    source = SyntheticSource(options=RenderOptions.preset("easy", num_fonts=6))
    spreads = [decoded(source[index].image).mean(axis=-1).std() for index in range(60)]
    assert min(spreads) > 12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.5))
def test_text_colours_differ_from_their_background(seed: int, contrast: float) -> None:
    rng = np.random.default_rng(seed)
    ground = draw_colour(rng)
    ink = draw_against(rng, ground, contrast)
    assert ink.min() >= 0 and ink.max() <= 255
    assert abs(luminance(ink) - luminance(ground)) >= contrast - 1e-5


def test_line_of_text_is_cut_to_its_ink() -> None:
    (face,) = usable_faces(("packaged",), RenderOptions().alphabet, 1, True)
    line = set_line(face, "Hat")
    for edge in (line[0], line[-1], line[:, 0], line[:, -1]):
        assert edge.max() > 0
    close, wide = _draw(_place(face, "Hat")), _draw(_place(face, "Hat", spacing=5.0))
    assert wide.shape[1] == pytest.approx(close.shape[1] + 10, abs=1)


def test_a_view_without_distortion_shows_the_whole_word() -> None:
    options = RenderOptions(**STILL, min_height=36, max_height=36)  # type: ignore[arg-type]
    (face,) = usable_faces(("packaged",), options.alphabet, 1, True)
    rng = np.random.default_rng(0)
    layout = lay_out(rng, face, "Hat", options)
    left, top, right, bottom = layout.box
    view = View(rng, layout.box, options)
    shown = view.warp(cv2.merge([layout.mask] * 3))[..., 0]
    assert (left, top) == (PAD, PAD) and view.size[0] == 36
    wanted = cv2.resize(layout.mask[top:bottom, left:right], shown.shape[::-1])
    assert np.abs(wanted.astype(float) - shown).mean() < 6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(10, 400), st.integers(20, 60))
def test_no_view_cuts_into_the_word(seed: int, width: int, height: int) -> None:
    """With a margin and no crop, no distortion brings ink to the edge of the picture."""
    options = RenderOptions.preset("hard", crop=0.0, min_height=32)
    box = (PAD, PAD, PAD + width, PAD + height)
    ink = np.zeros((height + 2 * PAD, width + 2 * PAD, 3), np.uint8)
    ink[PAD : PAD + height, PAD : PAD + width] = 255
    view = View(np.random.default_rng(seed), box, options)
    shown = view.warp(ink)[..., 0] / 255
    assert shown.shape == view.size and shown.max() == 1
    for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1]):
        assert edge.mean() < 0.25


def test_backgrounds_come_from_a_folder(tmp_path, source: SyntheticSource) -> None:  # type: ignore[no-untyped-def]
    green = np.zeros((80, 120, 3), np.uint8)
    green[..., 1] = 200
    cv2.imwrite(str(tmp_path / "green.png"), green)
    options = RenderOptions.preset("easy", num_fonts=6, backgrounds=str(tmp_path), photo=1.0)
    images = [decoded(SyntheticSource(options=options)[i].image) for i in range(5)]
    for image in images:
        corner = image[:2, :2].reshape(-1, 3).mean(axis=0)
        assert corner[1] > corner[0] + 60 and corner[1] > corner[2] + 60
    never = RenderOptions.preset("easy", num_fonts=6, backgrounds=str(tmp_path), photo=0.0)
    assert decoded(SyntheticSource(options=never)[0].image).shape[2] == 3


def test_background_folder_is_checked_at_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="backgrounds = .*is no folder"):
        SyntheticSource(options=RenderOptions(num_fonts=2, backgrounds=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="backgrounds = .*holds no picture"):
        SyntheticSource(options=RenderOptions(num_fonts=2, backgrounds=str(tmp_path)))


def test_paper_is_black_on_white_without_colours() -> None:
    options = RenderOptions.preset("easy", paper=1.0, encoding="png", num_fonts=2, exposure=0.0,
                                   noise=0.0, texture=0.0, gradient=0.0)  # fmt: skip
    source = SyntheticSource(seed=0, options=options)
    for index in range(5):
        picture = cv2.imdecode(np.frombuffer(source[index].image, np.uint8), cv2.IMREAD_COLOR)
        assert (picture.max(axis=2) - picture.min(axis=2)).max() <= 2
        assert picture.max() >= 0.85 * 255
        assert picture.min() <= 0.3 * 255
