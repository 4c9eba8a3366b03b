"""Scores of masks and pictures by hand, against scikit-image, and by what they must satisfy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rcmstr_jax.metrics.dense import (
    MASK_METRICS,
    MAX_PSNR,
    MaskScores,
    bicubic,
    mask_counts,
    mask_ratio,
    otsu_masks,
    psnr,
    score_masks,
    ssim,
)
from rcmstr_jax.metrics.intervals import bootstrap

MASKS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 1))
IMAGES = arrays(np.uint8, (2, 11, 12, 3))


def two_pictures() -> tuple[np.ndarray, np.ndarray]:
    place = np.arange(2 * 13 * 24 * 3).reshape(2, 13, 24, 3)
    first = (place * place // 7) % 256
    second = np.clip(first + place * 17 % 61 - 30, 0, 255)
    return first.astype(np.uint8), second.astype(np.uint8)


def test_masks_by_hand() -> None:
    truth = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]], np.uint8)
    masks = np.array([[[1, 0, 1, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 0]]], np.uint8)
    counts = mask_counts(masks, truth)
    assert counts.tolist() == [[1, 1, 1], [0, 0, 0], [3, 0, 1]]
    # 4 right, 1 wrong, 2 missed: the empty image changes nothing.
    assert score_masks(counts) == pytest.approx(MaskScores(4 / 7, 4 / 5, 4 / 6, 8 / 11))
    assert mask_counts(masks.astype(bool), truth).tolist() == counts.tolist()


def test_sets_without_text_or_without_an_answer() -> None:
    nothing, all_text = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    assert score_masks(mask_counts(nothing, nothing)) == (1, 1, 1, 1)
    assert score_masks(mask_counts(nothing, all_text)) == (0, 0, 0, 0)
    assert score_masks(mask_counts(all_text, nothing)) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="metric='dice' is unknown: choose one of iou"):
        mask_ratio(mask_counts(nothing, nothing), "dice")


@settings(deadline=None, max_examples=40)
@given(MASKS, MASKS)
def test_scores_of_masks_keep_their_relations(masks: np.ndarray, truth: np.ndarray) -> None:
    counts = mask_counts(masks, truth)
    scores = score_masks(counts)
    swapped = score_masks(mask_counts(truth, masks))
    assert all(0 <= score <= 1 for score in scores)
    assert scores.iou <= min(scores.precision, scores.recall) + 1e-12
    assert scores.f == pytest.approx(2 * scores.iou / (1 + scores.iou))
    assert (swapped.iou, swapped.precision, swapped.recall) == pytest.approx(
        (scores.iou, scores.recall, scores.precision)
    )
    assert score_masks(mask_counts(truth, truth)) == (1, 1, 1, 1)
    # Counts of images pool: any order, any division into sets.
    assert score_masks(np.concatenate([counts[2:], counts[:2]])) == scores


def test_intervals_take_the_ratios_of_masks() -> None:
    counts = np.tile(np.array([[4, 1, 2]]), (20, 1))
    for metric in MASK_METRICS:
        drawn = bootstrap(*mask_ratio(counts, metric), resamples=10)
        assert drawn == pytest.approx(np.full(10, getattr(score_masks(counts), metric)))


def test_psnr_by_hand() -> None:
    truth = np.full((3, 2, 5, 3), 100, np.uint8)
    images = truth.copy()
    images[1] += 10
    images[2, 0, 0, 0] = 0  # an error of 100**2 in one number of 30
    expected = [MAX_PSNR, 10 * np.log10(255**2 / 100), 10 * np.log10(255**2 / (10_000 / 30))]
    assert psnr(images, truth) == pytest.approx(expected)


def test_ssim_by_hand() -> None:
    truth = np.full((1, 11, 11, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1)
    assert ssim(truth + np.uint8(10), truth) == pytest.approx(expected)
    assert ssim(truth, truth) == pytest.approx(1)
    with pytest.raises(ValueError, match="images of 10 x 11: SSIM needs 11 pixels each way"):
        ssim(truth[:, 1:], truth[:, 1:])


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    first, second = two_pictures()
    # Of scikit-image 0.26.
    assert ssim(first, second) == pytest.approx([0.9744650999458857, 0.9734626825313049], abs=1e-12)
    assert psnr(first, second) == pytest.approx([23.546604399969905, 23.579946185694016], abs=1e-12)
    metrics = pytest.importorskip("skimage.metrics")
    for one, other, similar, ratio in zip(
        first, second, ssim(first, second), psnr(first, second), strict=True
    ):
        expected = metrics.structural_similarity(
            one, other, gaussian_weights=True, use_sample_covariance=False, data_range=255,
            channel_axis=-1,
        )  # fmt: skip
        assert similar == pytest.approx(expected, abs=1e-12)
        assert ratio == pytest.approx(metrics.peak_signal_noise_ratio(one, other))


@settings(deadline=None, max_examples=25)
@given(IMAGES, IMAGES)
def test_scores_of_pictures_keep_their_relations(images: np.ndarray, truth: np.ndarray) -> None:
    assert psnr(images, truth) == pytest.approx(psnr(truth, images))
    assert ssim(images, truth) == pytest.approx(ssim(truth, images))
    assert (ssim(images, truth) <= 1 + 1e-12).all() and (psnr(images, truth) <= MAX_PSNR).all()
    # Halfway to the truth is closer to it.
    half = ((images.astype(int) + truth) // 2).astype(np.uint8)
    assert (psnr(half, truth) >= psnr(images, truth)).all()
    assert psnr(255 - images, 255 - truth) == pytest.approx(psnr(images, truth))


@pytest.mark.parametrize("ink, ground", [(20, 200), (200, 20)])
def test_otsu_finds_text_of_either_polarity(ink: int, ground: int) -> None:
    truth = np.zeros((2, 8, 20), np.uint8)
    truth[0, 2:6, 3:9] = 1
    truth[1, 1:7, 1:19] = 1  # most of the pixels, but none at the edge
    images = np.where(truth[..., None], ink, ground).astype(np.uint8).repeat(3, axis=3)
    np.testing.assert_array_equal(otsu_masks(images), truth)


def test_otsu_takes_the_smaller_class_where_the_edge_is_halved() -> None:
    truth = np.zeros((1, 8, 20), np.uint8)
    truth[:, :, :10] = 1
    truth[0, 2:4, 2:9] = 0
    images = np.where(truth[..., None], 30, 180).astype(np.uint8).repeat(3, axis=3)
    np.testing.assert_array_equal(otsu_masks(images), truth)


def test_bicubic_keeps_flat_pictures_and_sizes() -> None:
    images = np.full((2, 16, 64, 3), 77, np.uint8)
    assert bicubic(images).shape == (2, 32, 128, 3) and (bicubic(images) == 77).all()
    assert bicubic(images, 3).shape == (2, 48, 192, 3)
