"""Layers on packed maps: the active sites of every image, (batch, capacity, channels).

Every operation gathers rows through an index table and multiplies them as one matrix. Backward
passes gather too: the table of a convolution read backwards says which outputs an input reaches, so
that no scatter is needed (scatters are slow on CPU and unordered on accelerators). Nothing that is
larger than a packed map is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from rcmstr_jax.models.compilation import compiled_apart
from rcmstr_jax.models.sites import Sites, Window


def _rows(x: Array, table: Int[Array, "*slots"], fill: int | float = 0) -> Array:
    """Rows of `x` (leading axes flattened) at `table`; `fill` where it points nowhere."""
    flat = x.reshape(-1, x.shape[-1])
    return flat.at[table].get(mode="fill", fill_value=fill)


_gather = compiled_apart(_rows)


def pack(
    x: Float[Array, "batch height width channels"], sites: Sites
) -> Float[Array, "batch capacity channels"]:
    """The active sites of a dense map."""
    return _move(x, sites.dense_index, sites.dense_slot)


def unpack(
    x: Float[Array, "batch capacity channels"], sites: Sites
) -> Float[Array, "batch height width channels"]:
    """The dense map that holds `x` at the active sites and zero elsewhere."""
    return _move(x, sites.dense_slot, sites.dense_index)


@jax.custom_vjp
def _move(x: Array, there: Array, back: Array) -> Array:
    """Gathers by `there`; `back` is the inverse, so the gradient is a gather as well."""
    return _gather(x, there)


_move.defvjp(
    lambda x, there, back: (_gather(x, there), back),
    lambda back, dy: (_gather(dy, back), None, None),
)


def convolve(
    x: Float[Array, "batch capacity channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    sites: Sites,
    window: Window,
) -> Float[Array, "batch out_capacity features"]:
    """Convolution over active sites; `sites` are those of the input, unused slots stay zero."""
    matrices = rearrange(kernel, "h w c f -> (h w) c f")
    if window == ((1, 1), (1, 1), (0, 0)):
        return x @ matrices[0]
    sources = sites.table("sources", window)
    if sites.through(*window) is sites:
        # The same sites before and after: the table with its places reversed reaches the outputs.
        return _convolve(x, matrices, sources, None)
    return _convolve(x, matrices, sources, sites.table("targets", window))


def _multiply(x: Array, matrices: Array, table: Array) -> Array:
    """The rows in every window, as one matrix, times the kernel, as one matrix."""
    rows = rearrange(_rows(x, table), "b slots places c -> b slots (places c)")
    return rows @ rearrange(matrices, "places c f -> (places c) f")


def _correlate(x: Array, dy: Array, table: Array) -> Array:
    """Gradient of the kernel: the rows in every window times the gradient of the output."""
    rows = rearrange(_rows(x, table), "b slots places c -> (b slots) (places c)")
    product = rows.T @ rearrange(dy, "b slots f -> (b slots) f")
    return rearrange(product, "(places c) f -> places c f", places=table.shape[-1])


_multiply_apart = compiled_apart(_multiply)
_correlate_apart = compiled_apart(_correlate)


@jax.custom_vjp
def _convolve(x: Array, matrices: Array, sources: Array, targets: Array | None) -> Array:
    return _multiply_apart(x, matrices, sources)


def _convolve_forward(x: Array, matrices: Array, sources: Array, targets: Array | None) -> Any:
    return _multiply_apart(x, matrices, sources), (x, matrices, sources, targets)


def _convolve_backward(saved: Any, dy: Array) -> Any:
    x, matrices, sources, targets = saved
    turned = rearrange(matrices, "places c f -> places f c")
    if targets is None:
        turned, targets = turned[::-1], sources
    dx = _multiply_apart(dy, turned, targets)
    return dx, _correlate_apart(x, dy, sources), None, None


_convolve.defvjp(_convolve_forward, _convolve_backward)


def max_pool(
    x: Float[Array, "batch capacity channels"], sites: Sites, window: Window
) -> Float[Array, "batch out_capacity channels"]:
    """Maximum over the active sites of every window; unused slots stay zero.

    Of equal maxima the first one in row-major order takes the gradient, as in PyTorch.
    """
    sources, targets = sites.table("sources", window), sites.table("targets", window)
    return _max_pool(x, sources, targets)


@jax.custom_vjp
def _max_pool(x: Array, sources: Array, targets: Array) -> Array:
    return _best(x, sources)[0]


@compiled_apart
def _best(x: Array, sources: Array) -> tuple[Array, Array]:
    """The maximum (zero where a window holds nothing) and the first place where it stands."""
    best = _rows(x, sources[..., 0], -jnp.inf)
    place = jnp.zeros(best.shape, jnp.int8)
    for at in range(1, sources.shape[-1]):
        value = _rows(x, sources[..., at], -jnp.inf)
        place = jnp.where(value > best, jnp.int8(at), place)
        best = jnp.maximum(best, value)
    return jnp.where(best == -jnp.inf, jnp.zeros((), x.dtype), best), place


@compiled_apart
def _hand_back(place: Array, dy: Array, targets: Array) -> Array:
    """Gradient of the maximum: every input looks up the windows that see it."""
    dx = jnp.zeros((), dy.dtype)
    for at in range(targets.shape[-1]):
        taken = _rows(place, targets[..., at], -1) == at
        dx = dx + jnp.where(taken, _rows(dy, targets[..., at]), jnp.zeros((), dy.dtype))
    return dx


def _max_pool_forward(x: Array, sources: Array, targets: Array) -> Any:
    best, place = _best(x, sources)
    return best, (place, targets)


def _max_pool_backward(saved: Any, dy: Array) -> Any:
    place, targets = saved
    return _hand_back(place, dy, targets), None, None


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
