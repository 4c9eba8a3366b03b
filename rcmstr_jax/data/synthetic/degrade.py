"""Through which camera: light, blur, lost detail, noise and compression."""

from __future__ import annotations

import cv2
import numpy as np

from rcmstr_jax.data.synthetic.background import cut_noise
from rcmstr_jax.data.synthetic.options import RenderOptions


def light(rng: np.random.Generator, picture: np.ndarray, options: RenderOptions) -> np.ndarray:
    """Uneven lighting, exposure, haze and colour cast; float32 (height, width, 3), 0 to 255."""
    height, width = picture.shape[:2]
    if options.gradient and rng.random() < options.gradient:
        across, down = rng.uniform(-0.35, 0.35, 2)
        x = np.linspace(-across, across, width, dtype=np.float32)
        y = np.linspace(-down, down, height, dtype=np.float32)
        picture = picture * (1 + x + y[:, None])[..., None]
    if options.exposure and rng.random() < 0.7:
        gain = 1 + rng.uniform(-1, 0.3) * options.exposure
        haze = rng.random() * rng.random() * options.exposure * 140
        cast = 1 + rng.uniform(-0.25, 0.25, 3) * options.exposure
        picture = picture * (gain * cast).astype(np.float32) + np.float32(haze)
    return picture


def expose(
    rng: np.random.Generator, picture: np.ndarray, options: RenderOptions, density: float = 1.0
) -> np.ndarray:
    """Blur, lost detail and noise; float32 in, uint8 out, (height, width, 3).

    Args:
      picture: 0 to 255, values beyond are cut off.
      options: the fields low_resolution, blur and noise are used.
      density: share of ink in the word's box. Thin strokes are blurred less, or they vanish.
    """
    robust = min(1.0, density / 0.28)
    height, width = picture.shape[:2]
    if rng.random() < options.low_resolution * robust and height > 14:
        rows = int(rng.uniform(10, 18))
        if rows < height:
            small = (max(4, round(width * rows / height)), rows)
            picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
            how = cv2.INTER_LINEAR if rng.random() < 0.6 else cv2.INTER_CUBIC
            picture = cv2.resize(picture, (width, height), interpolation=how)
    elif options.blur:
        sigma = float(rng.random()) ** 1.5 * options.blur * robust * height / 32
        if rng.random() < 0.2:
            picture = _streak(picture, 2.5 * sigma, float(rng.uniform(0, np.pi)))
        elif sigma > 0.3:
            picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    if options.noise:
        deviation = float(rng.random()) ** 2 * options.noise
        if deviation > 0.5:
            picture = picture + cut_noise(rng, (height, width)) * np.float32(deviation)
    return np.clip(picture, 0, 255).astype(np.uint8)


def encode(rng: np.random.Generator, picture: np.ndarray, options: RenderOptions) -> bytes:
    """JPEG of a quality drawn from min_quality to 95, or PNG; uint8 (height, width, 3), RGB in."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if options.encoding == "png":
        good, data = cv2.imencode(".png", bgr)
    else:
        quality = int(rng.integers(options.min_quality, 96))
        good, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise RuntimeError(f"OpenCV could not encode a {options.encoding} of {picture.shape}")
    return data.tobytes()


def _streak(picture: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Motion blur along a direction."""
    size = int(length) // 2 * 2 + 1
    if size < 3:
        return picture
    kernel = np.zeros((size, size), np.float32)
    reach = np.linspace(-(size // 2), size // 2, 4 * size)
    rows = np.rint(size // 2 + reach * np.sin(angle)).astype(int)
    columns = np.rint(size // 2 + reach * np.cos(angle)).astype(int)
    kernel[rows, columns] = 1
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
