"""Convolution, batch norm and max pooling for dense and for masked maps, with one set of weights.

Every layer takes a map and, for a masked image, the `Sites` that are active in it. Hidden sites are
zero on entry and on exit. Maps are channels last. No layer keeps a mask: it is always an argument.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Shaped

from rcmstr_jax.models import packed
from rcmstr_jax.models.linear import per_channel, promote_dtype
from rcmstr_jax.models.normalization import normalize
from rcmstr_jax.models.sites import Pair, Sites, output_size
from rcmstr_jax.target import target_platform

Dtype = Any


class Conv(nn.Module):
    """Convolution without bias; parameter `kernel` of shape (height, width, in, out).

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the window.
      strides: vertical and horizontal stride.
      padding: zeros added at both ends of the height and of the width.
      dtype: arithmetic; None takes the common type of input and kernel.
    """

    features: int
    kernel_size: Pair = (3, 3)
    strides: Pair = (1, 1)
    padding: Pair = (1, 1)
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *sites channels"], sites: Sites | None = None
    ) -> Float[Array, "batch *out_sites features"]:
        """Convolves `x`; with `sites` (those of the input) hidden output sites are zero.

        A map is (batch, height, width, channels), or packed (batch, slots, channels).
        """
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        if sites is not None and sites.packed:
            window = (self.kernel_size, self.strides, self.padding)
            return packed.convolve(x, kernel, sites, window)
        y = convolve(x, kernel, self.strides, self.padding)
        if sites is None:
            return y
        return keep_active(y, sites.through(self.kernel_size, self.strides, self.padding))


def convolve(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels features"],
    strides: Pair,
    padding: Pair,
) -> Float[Array, "batch out_height out_width features"]:
    """Dense convolution; thin ones take neighbouring columns as channels on CPU."""
    group = 1
    if target_platform() == "cpu" and (kernel.shape[:2], strides, padding) == _SAME_3X3:
        group = _columns_per_group(x.shape[2], kernel.shape[3])
    if group > 1:
        # In channels-last order a group of columns is already a longer vector of channels.
        x = rearrange(x, "b h (w g) c -> b h w (g c)", g=group)
        kernel = _group_columns(kernel, group)
    if target_platform() == "cpu" and x.dtype == jnp.bfloat16 and strides == (1, 1):
        y = _convolve_by_products(x, kernel, padding)
    else:
        y = _convolve(x, kernel, strides, padding)
    return y if group == 1 else rearrange(y, "b h w (g c) -> b h (w g) c", g=group)


def _convolve(x: Array, kernel: Array, strides: Pair, padding: Pair) -> Array:
    ends = tuple((zeros, zeros) for zeros in padding)
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, ends, dimension_numbers=numbers)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_by_products(x: Array, kernel: Array, padding: Pair) -> Array:
    """`_convolve` of stride 1, whose gradient to `x` is written as a forward convolution too.

    oneDNN, which XLA for CPU can call (docs/performance.md), takes a convolution of bfloat16 to
    the processor's matrix unit in its forward form alone.
    """
    return _convolve(x, kernel, (1, 1), padding)


def _convolve_forward(x: Array, kernel: Array, padding: Pair) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, (1, 1), padding), (x, kernel)


def _convolve_backward(padding: Pair, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (dkernel,) = jax.vjp(lambda kernel: _convolve(x, kernel, (1, 1), padding), kernel)[1](dy)
    # The barrier keeps XLA from folding the reversal back into its own backward form.
    turned = lax.optimization_barrier(rearrange(kernel[::-1, ::-1], "h w i o -> h w o i"))
    rows, columns = kernel.shape[:2]
    return _convolve(dy, turned, (1, 1), (rows - 1 - padding[0], columns - 1 - padding[1])), dkernel


_convolve_by_products.defvjp(_convolve_forward, _convolve_backward)


_SAME_3X3 = ((3, 3), (1, 1), (1, 1))


def _columns_per_group(width: int, features: int) -> int:
    """How many columns to take together: CPU kernels are slow below some 32 channels.

    Measured over the layers of narrow ResNets: up to 2.5 times faster, and slower beyond 32.
    """
    return next((n for n in (4, 2) if width % n == 0 and n * features <= 32), 1)


def _group_columns(kernel: Array, group: int) -> Array:
    """The kernel that does to groups of columns what `kernel` does to columns.

    Column i of the neighbouring group at distance d is column `i + group * d` as seen from the
    group's first one; it meets output column o where `i + group * d = o + offset`.
    """
    meets = np.zeros((3, 3, group, group), np.float32)
    for offset, distance, i, o in np.ndindex(meets.shape):
        meets[offset, distance, i, o] = i + group * (distance - 1) == o + offset - 1
    wide = jnp.einsum("ytcf,tdio->ydicof", kernel, jnp.asarray(meets, kernel.dtype))
    return rearrange(wide, "y d i c o f -> y d (i c) (o f)")


class BatchNorm(nn.Module):
    """Batch normalisation over all sites of a dense map, or over the active sites of a masked one.

    Statistics are computed in float32 (float64 for float64 input) and, as in PyTorch, the running
    variance is the unbiased one. Running statistics (collection `batch_stats`: `mean`, `var`) move
    only when the caller makes that collection mutable, so that a masked pass can leave them alone.

    Attributes:
      momentum: share of the old running statistics that is kept.
      epsilon: added to the variance.
      axis_name: device axis over which the batch statistics are shared; None keeps them local.
      dtype: type of the output; None keeps the input's.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *sites channels"],
        sites: Sites | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *sites channels"]:
        """Normalises `x` with the batch's statistics (`train`) or with the running ones."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        if self.dtype is not None:
            x = x.astype(self.dtype)
        if train:
            active = None if sites is None else sites.kept
            axis_name = None if self.is_initializing() else self.axis_name
            y, (mean, var, count) = normalize(x, scale, bias, active, self.epsilon, axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1, 1)
                kept = self.momentum
                for running, now in ((running_mean, mean), (running_var, unbiased)):
                    old = (kept * running.value).astype(now.dtype)
                    running.value = old + (1 - kept) * now
            return y
        factor = scale * lax.rsqrt(running_var.value + self.epsilon)
        precise, *vectors = promote_dtype(x, running_mean.value, factor, bias)
        mean, factor, bias = (per_channel(vector, x) for vector in vectors)
        y = ((precise - mean) * factor + bias).astype(x.dtype)
        return y if sites is None else keep_active(y, sites)


def keep_active(
    x: Shaped[Array, "batch *sites channels"], sites: Sites
) -> Shaped[Array, "batch *sites channels"]:
    """`x` with zero at hidden sites (at unused slots, where packed)."""
    return jnp.where(sites.kept[..., None], x, jnp.zeros((), x.dtype))


def max_pool(
    x: Float[Array, "batch *sites channels"],
    sites: Sites | None = None,
    *,
    window: Pair = (2, 2),
    strides: Pair = (2, 2),
    padding: Pair = (0, 0),
) -> Float[Array, "batch *out_sites channels"]:
    """Maximum over windows of a dense or a packed map; hidden and padded sites are left out of it.

    Of equal maxima the first one in row-major order takes the gradient, as in PyTorch.
    """
    if sites is None:
        return _max_pool(x, window, strides, padding)
    if sites.packed:
        return packed.max_pool(x, sites, (window, strides, padding))
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    y = _max_pool(jnp.where(sites.active[..., None], x, lowest), window, strides, padding)
    return keep_active(y, sites.through(window, strides, padding))


def _windows(x: Array, window: Pair, strides: Pair, padding: Pair) -> list[Array]:
    """For every place in the window (row-major), the map of the values that stand there."""
    height, width = output_size((x.shape[1], x.shape[2]), window, strides, padding)
    (top, left), lowest = padding, jnp.asarray(-jnp.inf, x.dtype)
    if padding != (0, 0):
        x = jnp.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=lowest)
    return [
        x[
            :,
            row : row + (height - 1) * strides[0] + 1 : strides[0],
            column : column + (width - 1) * strides[1] + 1 : strides[1],
        ]
        for row in range(window[0])
        for column in range(window[1])
    ]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: Pair, strides: Pair, padding: Pair) -> Array:
    values = _windows(x, window, strides, padding)
    y = values[0]
    for value in values[1:]:
        y = jnp.maximum(y, value)
    return y


def _max_pool_forward(x: Array, window: Pair, strides: Pair, padding: Pair) -> Any:
    values = _windows(x, window, strides, padding)
    y, place = values[0], jnp.zeros(values[0].shape, jnp.int8)
    for i, value in enumerate(values[1:], start=1):
        larger = value > y
        y, place = jnp.where(larger, value, y), jnp.where(larger, jnp.int8(i), place)
    # The place is kept, not found again by comparing with the maximum: a compiler that fuses the
    # layer before into the comparison may round differently there, and no value would be equal.
    return y, (x, place)


def _max_pool_backward(window: Pair, strides: Pair, padding: Pair, saved: Any, dy: Array) -> Any:
    x, place = saved
    zero = jnp.zeros((), dy.dtype)
    height, width = x.shape[1:3]
    padded = [size + 2 * pad for size, pad in zip((height, width), padding, strict=True)]
    dx = None
    for i, corner in enumerate(np.ndindex(window)):
        config = [(0, 0, 0)]
        for at, stride, size, out in zip(corner, strides, padded, place.shape[1:3], strict=True):
            config.append((at, size - at - (out - 1) * stride - 1, stride - 1))
        part = lax.pad(jnp.where(place == i, dy, zero), zero, [*config, (0, 0, 0)])
        dx = part if dx is None else dx + part
    top, left = padding
    assert dx is not None
    return (dx[:, top : top + height, left : left + width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
