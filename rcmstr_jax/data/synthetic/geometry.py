"""Seen from where: curvature, rotation and perspective in one resampling."""

from __future__ import annotations

import math

import cv2
import numpy as np

from rcmstr_jax.data.synthetic.options import RenderOptions

_MAX_WIDTH = 480
_MAX_ENLARGEMENT = 1.5


class View:
    """A mapping between the flat canvas and the crop.

    A canvas point is first raised along the curved baseline or turned about a circle, then goes
    through a homography, and is shifted and scaled into the crop. The crop encloses the word's box
    with the margins drawn.

    Attributes:
      size: height and width of the crop, in pixels.
      scale: crop pixels per canvas pixel.
    """

    def __init__(
        self, rng: np.random.Generator, box: tuple[int, int, int, int], options: RenderOptions
    ):
        left, top, right, bottom = (float(v) for v in box)
        width, height = right - left, bottom - top
        if height < 20:  # a dash or a dot alone: keep some of the line around it
            top, bottom = top - (20 - height) / 2, bottom + (20 - height) / 2
            height = 20.0
        self._centre = ((left + right) / 2, (top + bottom) / 2)
        self._half = max(width / 2, 1.0)
        self._bend = 0.0
        if options.curvature and width > 1.5 * height and rng.random() < 0.3:
            self._bend = float(rng.uniform(-1, 1)) * options.curvature * height
        self._radius = 0.0
        if options.arc and width > 1.5 * height and rng.random() < options.arc:
            # Half the word's angle in radians, and a circle that the letters do not close.
            radius = max(self._half / float(rng.uniform(0.3, 1.2)), 1.1 * height)
            self._radius = radius if rng.random() < 0.7 else -radius
            self._bend = 0.0
        stretch = 1.0
        if options.stretch:
            stretch = 1 + float(rng.uniform(-1, 1 / 3)) * options.stretch
        self._homography = _homography(rng, width * stretch, height, options)
        self._homography = self._homography @ np.diag([stretch, 1, 1])

        # The outline of the box, followed through the mapping, gives the crop.
        along = np.linspace(-1, 1, 13)
        xs = np.concatenate([along * width / 2, along * width / 2])
        ys = np.concatenate([np.full(13, -height / 2), np.full(13, height / 2)])
        points = np.stack([*self._curve(xs, ys), np.ones(26)])
        mapped = self._homography @ points
        mapped = mapped[:2] / mapped[2]
        low, high = mapped.min(axis=1), mapped.max(axis=1)
        span = high - low
        share = (0.15 + 0.85 * rng.random(4) ** 1.5) * options.margin
        if options.crop and rng.random() < 0.25:
            share[int(rng.random() * 4)] = -float(rng.random()) * options.crop
        edge = share * min(span[1], height * 1.3)
        low = low - edge[:2]
        span = span + edge[:2] + edge[2:]
        drawn = options.min_height * (options.max_height / options.min_height) ** rng.random()
        self.scale = float(
            min(drawn / span[1], max(_MAX_ENLARGEMENT, options.min_height / span[1]))
        )
        self.scale = min(self.scale, _MAX_WIDTH / span[0])
        rows = max(8, int(round(span[1] * self.scale)))
        columns = max(8, int(round(span[0] * self.scale)))
        self.size = (rows, columns)
        self._low = low

    def _curve(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points of the flat word lie once its baseline is curved."""
        if self._radius:
            angle, distance = x / self._radius, self._radius - y
            return distance * np.sin(angle), self._radius - distance * np.cos(angle)
        return x, y + self._bend * (x / self._half) ** 2

    def _flatten(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The inverse of `_curve`, float32."""
        if self._radius:
            radius, side = np.float32(self._radius), np.float32(np.sign(self._radius))
            down = radius - v
            return radius * np.arctan2(side * u, side * down), radius - side * np.hypot(u, down)
        if self._bend:
            v = v - np.float32(self._bend) * (u / np.float32(self._half)) ** 2
        return u, v

    def warp(self, layers: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Resamples canvas layers into the crop.

        Args:
          layers: uint8 (height, width) or (height, width, channels).
          size: (height, width) of the result, where it is not that of the crop.
        """
        rows, columns = size or self.size
        across = self.scale * (columns / self.size[1])
        down = self.scale * (rows / self.size[0])
        inverse = np.linalg.inv(self._homography)
        to_plane = np.array([[1 / across, 0, self._low[0]], [0, 1 / down, self._low[1]], [0, 0, 1]])
        m = (inverse @ to_plane).astype(np.float32)
        x = np.arange(columns, dtype=np.float32) + np.float32(0.5)
        y = (np.arange(rows, dtype=np.float32) + np.float32(0.5))[:, None]
        depth = 1 / (m[2, 0] * x + m[2, 1] * y + m[2, 2])
        u = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) * depth
        v = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) * depth
        u, v = self._flatten(u, v)
        u += np.float32(self._centre[0] - 0.5)
        v += np.float32(self._centre[1] - 0.5)
        if min(across, down) < 0.6:  # linear interpolation alone would skip pixels
            layers = cv2.blur(layers, (2 * int(0.5 / across) + 1, 2 * int(0.5 / down) + 1))
        return cv2.remap(layers, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def cover(self, layer: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The mean of a canvas layer over every pixel of the crop, were the crop of another size.

        Args:
          layer: uint8 (height, width).
          size: (height, width) of the result, uint8.
        """
        fine = [
            wanted * max(2, math.ceil(0.6 * own / (self.scale * wanted)))
            for wanted, own in zip(size, self.size, strict=True)
        ]
        drawn = self.warp(layer, (fine[0], fine[1]))
        return cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_AREA)


def _homography(
    rng: np.random.Generator, width: float, height: float, options: RenderOptions
) -> np.ndarray:
    """Rotation, slant and perspective about the word's centre."""
    angle = 0.0
    if options.rotation and rng.random() < 0.6:
        angle = math.radians(float(rng.triangular(-options.rotation, 0, options.rotation)))
        # Long words tilt less: their crops would be empty for the most part.
        angle *= min(1.0, 4 * height / max(width, 1.0))
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    if not options.perspective or rng.random() > 0.6:
        return rotation
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    corners *= np.array([width / 2, height / 2], np.float32)
    # In proportion to the shorter side, or the sides of a narrow word would cross.
    reach = np.float32(options.perspective * min(height, width))
    moved = corners + reach * rng.uniform(-1, 1, (4, 2)).astype(np.float32)
    return rotation @ cv2.getPerspectiveTransform(corners, moved)
