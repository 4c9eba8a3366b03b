"""Scores of images: masks of text, and pictures beside the truth; and what both must surpass.

Scores of masks are counted per image and summed over a set, as `Score` of words is: images with
much text weigh more, and images without any need no rule of their own. PSNR and SSIM are means over
images.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from scipy import ndimage

MASK_METRICS = ("iou", "precision", "recall", "f")
# PSNR of an image without any difference, and of the few that come closer than this.
MAX_PSNR = 100.0
_PEAK = 255.0
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


class MaskScores(NamedTuple):
    """Shares, from 0 to 1, over all pixels of a set.

    Attributes:
      iou: of the foreground, intersection by union.
      precision: of the pixels called text, those that are text.
      recall: of the pixels that are text, those called text.
      f: harmonic mean of precision and recall.
    """

    iou: float
    precision: float
    recall: float
    f: float


def mask_counts(
    masks: UInt8[np.ndarray, "images height width"] | Bool[np.ndarray, "images height width"],
    truth: UInt8[np.ndarray, "images height width"] | Bool[np.ndarray, "images height width"],
) -> Int64[np.ndarray, "images 3"]:
    """Pixels of every image that are text and called so, called so only, and text only."""
    called, text = masks.astype(bool), truth.astype(bool)
    pixels = (called & text, called & ~text, ~called & text)
    return np.stack([np.count_nonzero(one, axis=(1, 2)) for one in pixels], axis=1)


def mask_ratio(
    counts: Int64[np.ndarray, "images 3"], metric: str
) -> tuple[Float[np.ndarray, "images"], Float[np.ndarray, "images"]]:
    """Numerators and denominators whose sums divided give a metric, as `intervals.bootstrap` asks.

    Raises:
      ValueError: unknown metric.
    """
    right, wrong, missed = counts.astype(np.float64).T
    if metric == "iou":
        return right, right + wrong + missed
    if metric == "precision":
        return right, right + wrong
    if metric == "recall":
        return right, right + missed
    if metric == "f":
        return 2 * right, 2 * right + wrong + missed
    raise ValueError(f"metric={metric!r} is unknown: choose one of {', '.join(MASK_METRICS)}")


def score_masks(counts: Int64[np.ndarray, "images 3"]) -> MaskScores:
    """Scores of a set from the counts of its images.

    Where a set has no text and none is called so, every score is 1; where only one of both is so,
    what has no pixels to divide by is 0.
    """
    if not counts.any():
        return MaskScores(1.0, 1.0, 1.0, 1.0)
    sums = [[part.sum() for part in mask_ratio(counts, metric)] for metric in MASK_METRICS]
    return MaskScores(*(float(above / below) if below else 0.0 for above, below in sums))


def psnr(
    images: UInt8[np.ndarray, "images height width channels"],
    truth: UInt8[np.ndarray, "images height width channels"],
) -> Float[np.ndarray, "images"]:
    """Peak signal-to-noise ratio of every image in dB over 255, all channels together.

    At most `MAX_PSNR`, so that means stay finite where an image is exact.
    """
    error = np.square(images.astype(np.float64) - truth).mean(axis=(1, 2, 3))
    least = _PEAK**2 / 10 ** (MAX_PSNR / 10)
    return 10 * np.log10(_PEAK**2 / np.maximum(error, least))


def ssim(
    images: UInt8[np.ndarray, "images height width channels"],
    truth: UInt8[np.ndarray, "images height width channels"],
) -> Float[np.ndarray, "images"]:
    """Structural similarity of every image (Wang et al., 2004): mean over places and channels.

    An 11-pixel Gaussian window of standard deviation 1.5, at the places where it lies within the
    image, and population variances: scikit-image's `structural_similarity` with
    `gaussian_weights=True, use_sample_covariance=False, data_range=255`. Code after TSRN pads with
    zeros instead, and counts the edges.

    Raises:
      ValueError: images smaller than the window.
    """
    if min(images.shape[1:3]) < _WINDOW:
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]}: SSIM needs {_WINDOW} pixels each way"
        )
    x, y = images.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = _window(x), _window(y)
    both = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    covariance = _window(x * y) - both
    variances = _window(x * x + y * y) - squares
    values = ((2 * both + _C1) * (2 * covariance + _C2)) / ((squares + _C1) * (variances + _C2))
    return values.mean(axis=(1, 2, 3))


def otsu_masks(
    images: UInt8[np.ndarray, "images height width 3"],
) -> UInt8[np.ndarray, "images height width"]:
    """Masks by Otsu's threshold of every image's grey levels.

    Text is the class that fewer of the pixels along the edge of the crop belong to, for a crop
    of a word ends in its background; where they are halved, the class with fewer pixels.
    """
    masks = np.empty(images.shape[:3], np.uint8)
    for image, mask in zip(images, masks, strict=True):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        mask[:] = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
        edge = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean()
        if (edge, mask.mean()) > (0.5, 0.5):
            mask[:] = 1 - mask
    return masks


def bicubic(
    images: UInt8[np.ndarray, "images height width channels"], factor: int = 2
) -> UInt8[np.ndarray, "images tall wide channels"]:
    """Images enlarged by bicubic interpolation (OpenCV's, of parameter -0.75)."""
    size = (factor * images.shape[2], factor * images.shape[1])
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in images])


def _window(values: np.ndarray) -> np.ndarray:
    """Weighted means around every pixel whose window lies within the image."""
    reach = _WINDOW // 2
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _SIGMA) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        values = ndimage.correlate1d(values, kernel, axis=axis)
    return values[:, reach:-reach, reach:-reach]
