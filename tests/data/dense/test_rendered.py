"""Rendered words with masks and in pairs: the renderer's own pictures, the same every time."""

from __future__ import annotations

import dataclasses
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.data.dense.rendered import RenderedMasks, RenderedPairs, damage
from rcmstr_jax.data.dense.words import text_mask
from rcmstr_jax.data.synthetic import RenderOptions, SyntheticSource
from rcmstr_jax.data.synthetic.background import find_photos
from rcmstr_jax.data.synthetic.fonts import open_font, usable_faces
from rcmstr_jax.data.synthetic.options import ALPHABET
from rcmstr_jax.data.synthetic.render import Scene, WordRenderer

FEW = RenderOptions(num_fonts=4)
SIZE = (32, 128)
# Black on white, from in front, all of it within the crop.
PLAIN = RenderOptions(
    num_fonts=4, min_length=4,
    paper=1.0, grain=0.0, gradient=0.0, exposure=0.0, shadow=0.0, outline=0.0,
    clutter=0.0, stretch=0.0, rotation=0.0, perspective=0.0, curvature=0.0, crop=0.0, margin=0.0,
    jitter=0.0, spacing=0.0, min_height=64, max_height=64,
)  # fmt: skip
TURNED = dataclasses.replace(
    PLAIN, clutter=0.5, stretch=0.45, rotation=12.0, perspective=0.3, curvature=0.45, margin=0.3,
    crop=0.06, arc=0.3,
)  # fmt: skip


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def test_an_image_with_its_mask_is_the_image_without() -> None:
    plain = SyntheticSource(seed=3, options=FEW)
    masked = RenderedMasks("rendered", 3, 20, FEW, image_width=100)
    for index in range(20):
        word = masked[index]
        assert word.label == plain[index].text
        np.testing.assert_array_equal(word.image, decode_image(plain[index].image, (32, 100)))
        assert word.target.shape == (32, 100) and set(np.unique(word.target)) <= {0, 1}


@pytest.mark.parametrize("options", [PLAIN, TURNED])
def test_masks_are_where_the_ink_is_on_the_picture(options: RenderOptions) -> None:
    """The difference that black ink makes on white paper, resized as the picture is."""
    renderer = WordRenderer(options)
    overlaps, shifts = [], []
    for index in range(12):
        _, scene = renderer.compose(7, index)
        grey = scene.picture[..., 0]
        ink = cv2.resize(grey.max() - grey, SIZE[::-1], interpolation=cv2.INTER_AREA)
        ink *= 255 / ink.max()
        coverage = scene.coverage("letters", SIZE)
        overlaps.append(overlap(text_mask(coverage), (ink >= 127.5).astype(np.uint8)))
        slopes = np.gradient(coverage.astype(float))
        shifts.append([((ink - coverage) * s).sum() / (s * s).sum() for s in slopes])
    # One pixel to the side the overlap would be a half.
    assert np.mean(overlaps) > 0.93 and np.abs(np.mean(shifts, axis=0)).max() < 0.02


def test_masks_are_what_pillow_draws() -> None:
    """The word's own box, filled by Pillow with the same face."""
    renderer = WordRenderer(PLAIN)
    best = []
    for index in range(8):
        _, scene = renderer.compose(11, index)
        mask = text_mask(scene.coverage("letters", SIZE))
        scores = []
        for face in renderer.fonts.faces:
            font = open_font(face.path, face.size)
            line = Image.new("L", (int(font.getlength(scene.text)) + 200, 4 * face.size))
            ImageDraw.Draw(line).text((100, face.size), scene.text, fill=255, font=font)
            box = line.crop(line.getbbox()).resize(SIZE[::-1], Image.Resampling.BOX)
            scores.append(overlap(mask, np.asarray(box) >= 128))
        best.append(max(scores))
    # Not 1: our letters stand on whole pixels of the canvas, and Pillow's do not.
    assert np.mean(best) > 0.84 and min(best) > 0.75


def pushed_forward(scene: Scene) -> np.ndarray:
    """Coverage by the way from the canvas to the crop, which the renderer goes from its end."""
    letters = scene.flat[..., 0].repeat(4, axis=0).repeat(4, axis=1)
    y, x = (np.indices(letters.shape) + 0.5) / 4
    view = scene.view
    u, v = view._curve(x - view._centre[0], y - view._centre[1])
    plane = view._homography @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    shown = (plane[:2] / plane[2] - view._low[:, None]) * view.scale
    column, row = (shown * [[SIZE[1] / view.size[1]], [SIZE[0] / view.size[0]]]).astype(int)
    inside = (shown >= 0).all(0) & (column < SIZE[1]) & (row < SIZE[0])
    place = row[inside] * SIZE[1] + column[inside]
    total = np.bincount(place, minlength=SIZE[0] * SIZE[1])
    inked = np.bincount(place, letters.ravel()[inside], minlength=SIZE[0] * SIZE[1])
    return (inked / np.maximum(total, 1)).reshape(SIZE)


def test_masks_go_through_the_view_as_letters_do() -> None:
    renderer = WordRenderer(TURNED)
    overlaps = []
    for index in range(5):
        _, scene = renderer.compose(5, index)
        coverage = scene.coverage("letters", SIZE)
        forward = pushed_forward(scene)
        assert np.abs(coverage - forward).mean() < 6, scene.text
        overlaps.append(overlap(text_mask(coverage), (forward >= 127.5).astype(np.uint8)))
    assert np.mean(overlaps) > 0.93


def test_layers_lie_apart() -> None:
    options = dataclasses.replace(PLAIN, outline=1.0, shadow=1.0, margin=0.3)
    _, scene = WordRenderer(options).compose(2, 0)
    letters, outlined, shadow = (
        scene.coverage(layer, SIZE) for layer in ("letters", "outlined", "shadow")
    )
    assert (outlined >= letters).all() and outlined.sum() > 1.2 * letters.sum()
    assert shadow.any() and not np.array_equal(shadow, outlined)
    # Without them, the same letters.
    _, bare = WordRenderer(dataclasses.replace(options, outline=0.0, shadow=0.0)).compose(2, 0)
    assert not bare.coverage("shadow", SIZE).any()
    np.testing.assert_array_equal(bare.coverage("outlined", SIZE), bare.coverage("letters", SIZE))


def test_half_a_pixel_is_text() -> None:
    coverage = np.array([[0, 127, 128, 255]], np.uint8)
    assert text_mask(coverage).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("kind", [RenderedMasks, RenderedPairs])
def test_a_word_is_a_function_of_seed_and_index(kind: type) -> None:
    source = kind("rendered", 3, 9, FEW)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.name, len(copy)) == ("rendered", 9)
    for index in (8, 2, 2):
        for field in ("image", "target"):
            np.testing.assert_array_equal(
                getattr(source[index], field), getattr(copy[index], field)
            )
    assert not np.array_equal(source[1].image, kind("rendered", 4, 9, FEW)[1].image)
    with pytest.raises(IndexError):
        source[9]


def test_pairs_are_clean_words_and_their_damaged_halves() -> None:
    source = RenderedPairs("rendered", 3, 12, FEW)
    for index in range(12):
        word = source[index]
        assert word.image.shape == (16, 64, 3) and word.target.shape == (32, 128, 3)
        half = cv2.resize(word.target, (64, 16), interpolation=cv2.INTER_AREA).astype(int)
        error = np.abs(half - word.image).mean()
        assert 0 < error < 40  # the same word, and not its mere half


def test_a_perfect_camera_only_halves() -> None:
    options = RenderOptions(blur=0.0, low_resolution=0.0, noise=0.0, encoding="png")
    clean = np.random.default_rng(0).integers(0, 256, (32, 128, 3), np.uint8)
    small = damage(np.random.default_rng(1), clean, options)
    expected = clean.reshape(16, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - expected).max() <= 1
    worse = dataclasses.replace(options, blur=1.8, noise=13.0)
    assert np.abs(damage(np.random.default_rng(1), clean, worse) - expected).mean() > 5


def test_parts_share_no_font_and_no_photograph(tmp_path) -> None:
    found = {
        part: {face.family for face in usable_faces(("packaged",), ALPHABET, 6, False, part)}
        for part in ("train", "test")
    }
    # Relatives keep together.
    first = {part: {name[:2] for name in names} for part, names in found.items()}
    assert all(first.values()) and not first["train"] & first["test"]
    for number in range(40):
        (tmp_path / f"{number:03d}.jpg").write_bytes(b"")
    photos = {part: find_photos(str(tmp_path), part) for part in ("all", "train", "test")}
    assert sorted(photos["train"] + photos["test"]) == list(photos["all"])
    assert 4 <= len(photos["test"]) <= 18
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (lonely / "000.jpg").write_bytes(b"")
    absent = next(part for part in ("train", "test") if not _has(lonely, part))
    with pytest.raises(ValueError, match=f"none of its 1 pictures belongs to looks = '{absent}'"):
        RenderedMasks("x", 0, 1, RenderOptions(backgrounds=str(lonely), looks=absent, num_fonts=1))


def _has(folder, part: str) -> bool:
    try:
        return bool(find_photos(str(folder), part))
    except ValueError:
        return False
