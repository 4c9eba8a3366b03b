"""Pictures: files that open, stay small and show what was given; curves as written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.plotting import figures
from rcmstr_jax.runtime import curves

LIMIT = 300_000  # bytes


def _words(batch: int = 10, width: int = 100) -> np.ndarray:
    """Noise, the hardest picture to compress, under a dark bar where a word would be."""
    images = np.random.default_rng(0).uniform(-1, 1, (batch, 32, width, 3)).astype(np.float32)
    images[:, 10:22] *= 0.2
    return images


def _open(path: Path) -> np.ndarray:
    assert path.stat().st_size < LIMIT
    return np.asarray(Image.open(path).convert("RGB"))


def _write(path: Path, records: list[dict], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail, encoding="utf-8")
    return path


def test_pixels_of_floats_and_of_bytes() -> None:
    floats = np.array([-1.0, 0.0, 1.0, 2.0, np.nan])
    np.testing.assert_array_equal(figures.to_pixels(floats), [0, 128, 255, 255, 128])
    same = np.array([7], np.uint8)
    assert figures.to_pixels(same) is same


def test_hidden_patches_are_painted_and_no_others() -> None:
    images = np.arange(16.0).reshape(1, 4, 4, 1)
    mask = np.array([[[True, False], [False, False]]])
    out = figures.hide_patches(images, mask, value=-1.0)
    expected = images.copy()
    expected[0, :2, :2] = -1
    np.testing.assert_array_equal(out, expected)
    assert images[0, 0, 0, 0] == 0


def test_a_mask_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="3 x 2 patches does not divide 4 x 4"):
        figures.hide_patches(np.zeros((1, 4, 4, 3)), np.zeros((1, 3, 2), bool))


def test_views_show_every_word_and_view(tmp_path: Path) -> None:
    shades = [np.full((2, 32, 100, 3), value, np.float32) for value in (-1.0, 0.0, 0.6)]
    figures.save_views(tmp_path / "new" / "views.png", *shades)
    picture = _open(tmp_path / "new" / "views.png")
    counts = [int((picture == shade).all(-1).sum()) for shade in (0, 128, 204)]
    # Two rows of about 200 x 64 screen pixels each.
    assert all(count > 2 * 150 * 48 for count in counts), counts


def test_views_of_many_words_stay_small(tmp_path: Path) -> None:
    smooth = np.repeat(np.repeat(_words(64)[:, ::8, ::10], 8, 1), 10, 2)
    figures.save_views(tmp_path / "views.png", smooth, smooth, (smooth * 127).astype(np.uint8))
    assert _open(tmp_path / "views.png").shape[0] < 800


def test_views_of_different_size_are_refused(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(ValueError, match="view_q.*100.*view_k.*128"):
        figures.save_views(tmp_path / "v.png", _words(), _words(), _words(width=128))


def test_rearranged_pair_outlines_every_block_in_its_colour(tmp_path: Path) -> None:
    images = np.zeros((4, 32, 100, 3), np.float32)
    figures.save_rearranged(
        tmp_path / "pair.png", images, images, np.array([[3, 0, 1, 2], [0, 1, 2, 3]])
    )
    picture = _open(tmp_path / "pair.png")
    for colour in figures.COLOURS[:4]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(picture.astype(int) - rgb).max(-1) < 3).sum() > 500


def test_a_permutation_of_other_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"permutation of shape \(3, 4\) does not fit 4 images"):
        figures.save_rearranged(tmp_path / "p.png", _words(4), _words(4), np.zeros((3, 4), int))
    with pytest.raises(ValueError, match="width 100"):
        figures.save_rearranged(tmp_path / "p.png", _words(2), _words(2), np.zeros((1, 6), int))


def test_masks_take_a_batch_or_one_image(tmp_path: Path) -> None:
    words = np.clip(_words(6) * 0.1, -1, 1)
    hidden = figures.hide_patches(words, np.random.default_rng(1).random((6, 8, 25)) < 0.7)
    figures.save_masks(tmp_path / "batch.png", words, hidden, words, words)
    figures.save_masks(tmp_path / "one.png", words[0], hidden[0], words[0], words[0])
    assert _open(tmp_path / "batch.png").shape[1] > 2 * _open(tmp_path / "one.png").shape[1]


def test_curves_are_read_as_written(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "metrics.jsonl",
        [
            {"step": 10, "loss": 3.0, "note": "text"},
            {"step": 20, "loss": float("nan"), "accuracy/word": 0.5},
            {"step": 10, "loss": 2.5},
            {"step": 30, "loss": 1},
        ],
        tail='{"step": 40, "lo',
    )
    read = curves.read_metrics(path)
    assert sorted(read) == ["accuracy/word", "loss"]
    np.testing.assert_array_equal(read["loss"], [[10, 30], [2.5, 1.0]])
    np.testing.assert_array_equal(read["accuracy/word"], [[20], [0.5]])


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"loss": 2}\n{"step": 3, "loss": 1}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: .*a step"):
        curves.read_metrics(path)


def test_curves_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no metrics"):
        figures.save_curves(tmp_path / "c.png", {})


def test_moving_average_shortens_at_the_ends() -> None:
    out = curves.moving_average(np.array([0.0, 3.0, 6.0, 0.0]), 3)
    np.testing.assert_allclose(out, [1.5, 3.0, 3.0, 3.0])


@pytest.mark.parametrize("points", [1, 3, 2000])
def test_curves_of_any_length_are_drawn_small(points: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((points, 7))
    names = [f"{group}/{h}" for group in ("accuracy", "nce") for h in ("frame", "sub", "word")]
    records = [
        {"step": step, **dict(zip(["loss", *names], map(float, row), strict=True))}
        for step, row in enumerate(noise)
    ]
    path = _write(tmp_path / "m.jsonl", records)
    figures.save_curves(tmp_path / "curves.png", curves.read_metrics(path))
    assert _open(tmp_path / "curves.png").shape[1] > 1000
