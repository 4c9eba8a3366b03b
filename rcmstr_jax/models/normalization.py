"""Batch normalisation over all or over the active sites, with its gradient in closed form."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from rcmstr_jax.models.linear import per_channel
from rcmstr_jax.models.remat import kept


def sum_over_devices(value: Array, axis_name: str | None) -> Array:
    """Sum over the devices of an axis; the value itself without one."""
    return value if axis_name is None else lax.psum(value, axis_name)


def batch_moments(
    x: Float[Array, "*sites channels"],
    active: Bool[Array, "*sites"] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, " channels"], Float[Array, " channels"], Float[Array, ""]]:
    """Mean, biased variance and number of the (active) sites of `x`, over all devices.

    The sums are those of `x` minus one of its own sites, in one pass over `x`: the difference of
    squares then keeps its digits however far the values lie from zero.
    """
    share = partial(sum_over_devices, axis_name=axis_name)
    flat = x.reshape(-1, x.shape[-1])
    axes = tuple(range(x.ndim - 1))
    if active is None:
        shift = flat[0]
        shifted = x - per_channel(shift, x)
        count = jnp.asarray(flat.shape[0], x.dtype)
    else:
        shift = flat[jnp.argmax(active.reshape(-1))]
        shifted = jnp.where(active[..., None], x - per_channel(shift, x), 0)
        count = jnp.sum(active, dtype=jnp.int32).astype(x.dtype)
    total = jnp.sum(shifted, axes)
    squares = jnp.sum(shifted * shifted, axes)
    everywhere = jnp.maximum(share(count), 1)
    mean = share(total + count * shift) / everywhere
    # Squared distances from the shared mean, by the parallel-axis rule.
    distance = mean - shift
    spread = squares - 2 * distance * total + count * distance * distance
    return mean, jnp.maximum(share(spread) / everywhere, 0), everywhere


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize(
    x: Float[Array, "*sites channels"],
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    active: Bool[Array, "*sites"] | None,
    epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "*sites channels"], tuple[Array, Array, Array]]:
    """Normalises with the batch's own statistics.

    Args:
      x: values, channels last.
      scale: factor per channel.
      bias: summand per channel.
      active: sites that count; all others are zero in the result. None: all count.
      epsilon: added to the variance.
      axis_name: device axis that shares statistics, or None.

    Returns:
      The normalised values in the type of `x`, and mean, biased variance and count, through which
      no gradient flows. The arithmetic is at least float32.
    """
    return _normalize(x, scale, bias, active, epsilon, axis_name)[0]


def _normalize(
    x: Array,
    scale: Array,
    bias: Array,
    active: Array | None,
    epsilon: float,
    axis_name: str | None,
) -> Any:
    precise = x.astype(np.promote_types(np.float32, x.dtype))
    mean, var, count = map(kept, batch_moments(precise, active, axis_name))
    inverse = lax.rsqrt(var + epsilon)
    over = partial(per_channel, like=x)
    factor, offset = scale.astype(var.dtype) * inverse, bias.astype(var.dtype)
    y = ((precise - over(mean)) * over(factor) + over(offset)).astype(x.dtype)
    if active is not None:
        y = jnp.where(active[..., None], y, jnp.zeros((), y.dtype))
    return (y, (mean, var, count)), (x, scale, active, mean, inverse, count)


def _backward(epsilon: float, axis_name: str | None, saved: Any, cotangents: Any) -> Any:
    x, scale, active, mean, inverse, count = saved
    dy = cotangents[0].astype(mean.dtype)
    if active is not None:
        dy = jnp.where(active[..., None], dy, 0)
    over = partial(per_channel, like=x)
    unit = (x.astype(mean.dtype) - over(mean)) * over(inverse)
    axes = tuple(range(x.ndim - 1))
    d_bias, d_scale = jnp.sum(dy, axes), jnp.sum(dy * unit, axes)
    share = partial(sum_over_devices, axis_name=axis_name)
    change = over(share(d_bias)) + unit * over(share(d_scale))
    dx = over(scale.astype(mean.dtype) * inverse) * (dy - change / count)
    if active is not None:
        dx = jnp.where(active[..., None], dx, 0)
    return dx.astype(x.dtype), d_scale.astype(scale.dtype), d_bias.astype(scale.dtype), None


normalize.defvjp(_normalize, _backward)
