"""Layers on packed maps: the active sites of every image, (batch, capacity, channels).

Every operation gathers rows through an index table and multiplies them as one matrix. Backward
passes gather too: tables of a convolution read backwards say which outputs an input reaches, so
that no scatter is needed (scatters are slow on CPU and unordered on accelerators). Nothing that is
larger than a packed map is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rcmstr_jax.models.sites import Sites, Window


def _rows(x: Array, table: Int[Array, "*slots"], fill: float = 0.0) -> Array:
    """Rows of `x` (its leading axes flattened) at `table`; `fill` where the table points nowhere."""
    flat = x.reshape(-1, x.shape[-1])
    return flat.at[table].get(mode="fill", fill_value=fill)


def _flat_index(sites: Sites) -> Int[Array, "batch capacity"]:
    """Rows of the flattened dense map that the slots hold; one beyond the last if unused."""
    batch, total = sites.visible.shape[0], sites.size[0] * sites.size[1]
    base = jnp.arange(batch, dtype=jnp.int32)[:, None] * total
    return jnp.where(sites.valid, base + sites.index, batch * total)


def pack(
    x: Float[Array, "batch height width channels"], sites: Sites
) -> Float[Array, "batch capacity channels"]:
    """The active sites of a dense map."""
    return _pack(x, _flat_index(sites), _dense_slots(sites))


def unpack(
    x: Float[Array, "batch capacity channels"], sites: Sites
) -> Float[Array, "batch height width channels"]:
    """The dense map that holds `x` at the active sites and zero elsewhere."""
    return _unpack(x, _dense_slots(sites), _flat_index(sites))


def _dense_slots(sites: Sites) -> Int[Array, "batch height width"]:
    return sites.slot[:, :-1].reshape(-1, *sites.size)


@jax.custom_vjp
def _pack(x: Array, index: Array, slot: Array) -> Array:
    return _rows(x, index)


@jax.custom_vjp
def _unpack(x: Array, slot: Array, index: Array) -> Array:
    return _rows(x, slot)


# Each is the other's transpose; index tables have no gradient.
_pack.defvjp(
    lambda x, index, slot: (_rows(x, index), slot),
    lambda slot, dy: (_rows(dy, slot), None, None),
)
_unpack.defvjp(
    lambda x, slot, index: (_rows(x, slot), index),
    lambda index, dy: (_rows(dy, index), None, None),
)


def convolve(
    x: Float[Array, "batch capacity channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    sites: Sites,
    window: Window,
) -> Float[Array, "batch out_capacity features"]:
    """Convolution over active sites; `sites` are those of the input, unused slots stay zero."""
    matrices = kernel.reshape(-1, *kernel.shape[2:])
    if window == ((1, 1), (1, 1), (0, 0)):
        return x @ matrices[0]
    sources = sites.table("sources", window)
    if sites.through(*window) is sites:
        # The same sites before and after: reading the table backwards reaches the outputs.
        targets = sources[..., ::-1]
    else:
        targets = sites.table("targets", window)
    return _convolve(x, matrices, sources, targets)


@jax.custom_vjp
def _convolve(x: Array, matrices: Array, sources: Array, targets: Array) -> Array:
    columns = _rows(x, sources)
    return columns.reshape(*columns.shape[:-2], -1) @ matrices.reshape(-1, matrices.shape[-1])


def _convolve_forward(x: Array, matrices: Array, sources: Array, targets: Array) -> Any:
    return _convolve(x, matrices, sources, targets), (x, matrices, sources, targets)


def _convolve_backward(saved: Any, dy: Array) -> Any:
    x, matrices, sources, targets = saved
    columns = _rows(x, sources).reshape(-1, matrices.shape[0] * matrices.shape[1])
    d_matrices = columns.T @ dy.reshape(-1, dy.shape[-1])
    reached = _rows(dy, targets)
    turned = matrices.swapaxes(1, 2).reshape(-1, matrices.shape[1])
    dx = reached.reshape(*reached.shape[:-2], -1) @ turned
    return dx, d_matrices.reshape(matrices.shape), None, None


_convolve.defvjp(_convolve_forward, _convolve_backward)


def max_pool(
    x: Float[Array, "batch capacity channels"], sites: Sites, window: Window
) -> Float[Array, "batch out_capacity channels"]:
    """Maximum over the active sites of every window; unused slots stay zero.

    Of equal maxima the first one in row-major order takes the gradient, as in PyTorch.
    """
    sources, targets = sites.table("sources", window), sites.table("targets", window)
    valid = sites.through(*window).valid
    return jnp.where(valid[..., None], _max_pool(x, sources, targets), jnp.zeros((), x.dtype))


@jax.custom_vjp
def _max_pool(x: Array, sources: Array, targets: Array) -> Array:
    return _max_and_place(x, sources)[0]


def _max_and_place(x: Array, sources: Array) -> tuple[Array, Array]:
    """The maximum and the first place in the window where it stands."""
    best = _rows(x, sources[..., 0], -jnp.inf)
    place = jnp.zeros(best.shape, jnp.int8)
    for at in range(1, sources.shape[-1]):
        value = _rows(x, sources[..., at], -jnp.inf)
        place = jnp.where(value > best, jnp.int8(at), place)
        best = jnp.maximum(best, value)
    return best, place


def _max_pool_forward(x: Array, sources: Array, targets: Array) -> Any:
    best, place = _max_and_place(x, sources)
    return best, (place, targets)


def _max_pool_backward(saved: Any, dy: Array) -> Any:
    place, targets = saved
    dx = None
    for at in range(targets.shape[-1]):
        taken = _rows(place, targets[..., at], -1) == at
        part = jnp.where(taken, _rows(dy, targets[..., at]), jnp.zeros((), dy.dtype))
        dx = part if dx is None else dx + part
    return dx, None, None


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
