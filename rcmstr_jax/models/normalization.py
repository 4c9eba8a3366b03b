"""Batch normalisation over all or over the active sites, with its gradient in closed form."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Groups = tuple[tuple[int, ...], ...]


def sum_over_devices(value: Array, axis_name: str | None, groups: Groups | None) -> Array:
    """Sum over the devices that share statistics; the value itself without an axis."""
    if axis_name is None:
        return value
    return lax.psum(value, axis_name, axis_index_groups=groups)


def batch_moments(
    x: Float[Array, "*sites channels"],
    active: Bool[Array, "*sites"] | None = None,
    axis_name: str | None = None,
    groups: Groups | None = None,
) -> tuple[Float[Array, " channels"], Float[Array, " channels"], Float[Array, ""]]:
    """Mean, biased variance and number of the (active) sites of `x`, over all devices.

    The sums are those of `x` minus one of its own sites, in one pass over `x`: the difference of
    squares then keeps its digits however far the values lie from zero.
    """
    share = partial(sum_over_devices, axis_name=axis_name, groups=groups)
    flat = x.reshape(-1, x.shape[-1])
    axes = tuple(range(x.ndim - 1))
    if active is None:
        shift = flat[0]
        shifted = x - shift
        count = jnp.asarray(flat.shape[0], x.dtype)
    else:
        shift = flat[jnp.argmax(active.reshape(-1))]
        shifted = jnp.where(active[..., None], x - shift, 0)
        count = jnp.sum(active, dtype=jnp.int32).astype(x.dtype)
    total = jnp.sum(shifted, axes)
    squares = jnp.sum(shifted * shifted, axes)
    everywhere = jnp.maximum(share(count), 1)
    mean = share(total + count * shift) / everywhere
    # Squared distances from the shared mean, by the parallel-axis rule.
    distance = mean - shift
    spread = squares - 2 * distance * total + count * distance * distance
    return mean, jnp.maximum(share(spread) / everywhere, 0), everywhere


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def normalize(
    x: Float[Array, "*sites channels"],
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    active: Bool[Array, "*sites"] | None,
    epsilon: float,
    axis_name: str | None,
    groups: Groups | None,
) -> tuple[Float[Array, "*sites channels"], tuple[Array, Array, Array]]:
    """Normalises with the batch's own statistics.

    Args:
      x: values, channels last.
      scale: factor per channel.
      bias: summand per channel.
      active: sites that count; all others are zero in the result. None: all count.
      epsilon: added to the variance.
      axis_name: device axis that shares statistics, or None.
      groups: groups of devices that share statistics, or None for all.

    Returns:
      The normalised values in the type of `x`, and mean, biased variance and count, through which
      no gradient flows. The arithmetic is at least float32.
    """
    return _normalize(x, scale, bias, active, epsilon, axis_name, groups)[0]


def _normalize(
    x: Array,
    scale: Array,
    bias: Array,
    active: Array | None,
    epsilon: float,
    axis_name: str | None,
    groups: Groups | None,
) -> Any:
    precise = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    mean, var, count = batch_moments(precise, active, axis_name, groups)
    inverse = lax.rsqrt(var + epsilon)
    y = (precise - mean) * (scale * inverse) + bias
    y = y.astype(x.dtype)
    if active is not None:
        y = jnp.where(active[..., None], y, jnp.zeros((), y.dtype))
    return (y, (mean, var, count)), (x, scale, active, mean, inverse, count)


def _backward(
    epsilon: float, axis_name: str | None, groups: Groups | None, saved: Any, cotangents: Any
) -> Any:
    x, scale, active, mean, inverse, count = saved
    dy = cotangents[0].astype(mean.dtype)
    if active is not None:
        dy = jnp.where(active[..., None], dy, 0)
    unit = (x.astype(mean.dtype) - mean) * inverse
    axes = tuple(range(x.ndim - 1))
    d_bias, d_scale = jnp.sum(dy, axes), jnp.sum(dy * unit, axes)
    share = partial(sum_over_devices, axis_name=axis_name, groups=groups)
    dx = (scale * inverse) * (dy - (share(d_bias) + unit * share(d_scale)) / count)
    if active is not None:
        dx = jnp.where(active[..., None], dx, 0)
    return dx.astype(x.dtype), d_scale.astype(scale.dtype), d_bias.astype(scale.dtype), None


normalize.defvjp(_normalize, _backward)
