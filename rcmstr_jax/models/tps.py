"""Thin-plate-spline rectifier: straightens a word before the encoder (method section 3).

A small convolutional network places fiducial points along the upper and the lower edge of the
text; the thin-plate spline through them says where every pixel of the straight image lies in the
input. The rectifier comes from a supervised recogniser and is frozen in both branches, so there is
an inference mode alone: normalisation always uses the running statistics.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from rcmstr_jax.models.layers import BatchNorm, Conv, max_pool
from rcmstr_jax.models.linear import Linear, TypedModule, promote_dtype

Images = Float[Array, "batch height width 3"]
Grid = Float[Array, "batch pixels 2"]
Points = Float[Array, "batch fiducials 2"]

# Added to a distance before its logarithm: a pixel may lie exactly on a fiducial point.
_EPSILON = 1e-6


def fiducial_targets(fiducials: int) -> np.ndarray:
    """Where the fiducial points lie in the straight image, float64 (F, 2) as (x, y) in [-1, 1].

    Half of them along the upper edge from left to right, then half along the lower one.

    Raises:
      ValueError: if the number is odd or below 4.
    """
    if fiducials % 2 or fiducials < 4:
        raise ValueError(f"fiducials={fiducials}: give an even number of at least 4")
    x = np.linspace(-1.0, 1.0, fiducials // 2)
    one = np.ones_like(x)
    return np.concatenate([np.stack([x, -one], 1), np.stack([x, one], 1)])


@functools.lru_cache(maxsize=8)
def spline_matrices(fiducials: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The fixed part of the spline: its system solved once, and its basis at every pixel.

    Args:
      size: height and width of the straight image in pixels.

    Returns:
      Solver (F + 3, F): coefficients from fiducial points; and basis (H·W, F + 3), pixels row by
      row. Both float64: the system is ill-conditioned, and rounding the solver to float32 (as
      the published code does in float32) moves the grid by 1e-5.
    """
    points = fiducial_targets(fiducials)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, 1.0)
    system = np.zeros((fiducials + 3, fiducials + 3))
    system[:fiducials, 0] = 1.0
    system[:fiducials, 1:3] = points
    system[:fiducials, 3:] = np.square(distance) * np.log(distance)
    system[fiducials : fiducials + 2, 3:] = points.T
    system[fiducials + 2, 3:] = 1.0
    solver = np.linalg.inv(system)[:, :fiducials]

    height, width = size
    x = (np.arange(-width, width, 2) + 1.0) / width
    y = (np.arange(-height, height, 2) + 1.0) / height
    pixels = rearrange(np.stack(np.meshgrid(x, y)), "xy h w -> (h w) xy")
    distance = np.linalg.norm(pixels[:, None] - points[None], axis=2)
    radial = np.square(distance) * np.log(distance + _EPSILON)
    basis = np.concatenate([np.ones((len(pixels), 1)), pixels, radial], axis=1)
    return solver, basis


def spline_grid(points: Points, size: tuple[int, int]) -> Grid:
    """Where every pixel of the straight image lies in the input.

    Args:
      points: fiducial points (x, y) in the input, -1 and 1 at the centres of its outer pixels.
      size: height and width of the straight image in pixels.

    Returns:
      (x, y) of every pixel, row by row, (B, H·W, 2).
    """
    solver, basis = spline_matrices(points.shape[1], size)
    # One matrix in float64 before anything is rounded; then full precision, because an error of
    # 1e-3 here moves pixels.
    spline = jnp.asarray(basis @ solver, points.dtype)
    return jnp.matmul(spline, points, precision=jax.lax.Precision.HIGHEST)


def sample_bilinear(
    images: Float[Array, "batch height width channels"], grid: Grid
) -> Float[Array, "batch pixels channels"]:
    """Samples images bilinearly; beyond the border the nearest border pixel is repeated.

    Args:
      grid: (x, y) with -1 and 1 at the centres of the outer pixels ("aligned corners").
    """
    height, width = images.shape[1:3]
    flat = rearrange(images, "b h w c -> b (h w) c")
    x = jnp.clip((grid[..., 0] + 1) / 2 * (width - 1), 0, width - 1)
    y = jnp.clip((grid[..., 1] + 1) / 2 * (height - 1), 0, height - 1)
    left, top = jnp.floor(x), jnp.floor(y)
    to_right, to_bottom = (x - left)[..., None], (y - top)[..., None]
    columns = [left.astype(jnp.int32), jnp.minimum(left + 1, width - 1).astype(jnp.int32)]
    rows = [top.astype(jnp.int32), jnp.minimum(top + 1, height - 1).astype(jnp.int32)]

    def pixels(row: Array, column: Array) -> Array:
        return jnp.take_along_axis(flat, (row * width + column)[..., None], axis=1)

    upper = pixels(rows[0], columns[0]) * (1 - to_right) + pixels(rows[0], columns[1]) * to_right
    lower = pixels(rows[1], columns[0]) * (1 - to_right) + pixels(rows[1], columns[1]) * to_right
    return upper * (1 - to_bottom) + lower * to_bottom


class TpsRectifier(TypedModule):
    """Straightens words; callers stop the gradient, nothing here is trained.

    Attributes:
      fiducials: number of fiducial points, even.
      size: height and width of the result in pixels.
      channels: widths of the localisation network's convolutions.
      hidden: width of its hidden linear layer.
      dtype: dtype of the localisation network; the spline is computed in float32 at least.
    """

    fiducials: int = 20
    size: tuple[int, int] = (32, 100)
    channels: Sequence[int] = (64, 128, 256, 512)
    hidden: int = 256

    def setup(self) -> None:
        stages = range(len(self.channels))
        self.convs = [Conv(self.channels[i], dtype=self.dtype, name=f"conv{i}") for i in stages]
        self.norms = [BatchNorm(dtype=self.dtype, name=f"bn{i}") for i in stages]
        self.fc1 = Linear(self.hidden, **self.dtypes)
        # A zero kernel and evenly spread points: an untrained rectifier is nearly the identity.
        spread = fiducial_targets(self.fiducials).reshape(-1)
        self.fc2 = nn.Dense(
            2 * self.fiducials,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype=jnp.float32: jnp.asarray(spread, dtype),
            **self.dtypes,
            promote_dtype=promote_dtype,
        )

    def fiducial_points(self, images: Images) -> Points:
        """Fiducial points (x, y) in the input images, -1 and 1 at its outer pixel centres."""
        x = images
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = nn.relu(norm(conv(x)))
            if i < len(self.convs) - 1:
                x = max_pool(x, window=(2, 2), strides=(2, 2))
        x = nn.relu(self.fc1(jnp.mean(x, axis=(1, 2))))
        points = rearrange(self.fc2(x), "b (f xy) -> b f xy", xy=2)
        return points.astype(np.promote_types(points.dtype, np.float32))

    def grid(self, images: Images) -> Grid:
        """Where every pixel of the result lies in the input, row by row."""
        return spline_grid(self.fiducial_points(images), self.size)

    def __call__(self, images: Images) -> Float[Array, "batch rows columns 3"]:
        """Rectified images of `size`, in the input's dtype."""
        grid = self.grid(images)
        sampled = sample_bilinear(images.astype(grid.dtype), grid)
        sampled = rearrange(sampled, "b (h w) c -> b h w c", h=self.size[0])
        return sampled.astype(images.dtype)
