"""Data parallelism over devices and hosts. The only file that knows `jax.pmap`.

A move to `jax.shard_map` changes this file alone: the step is written against `AXIS` and calls
the collectives below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

AXIS = "devices"
Tree = TypeVar("Tree")


def replicate(tree: Tree) -> Tree:
    """Puts a copy of every leaf on each local device, along a new leading axis.

    Goes through the axis of the step, so that the step is not compiled again for its own output.
    """
    count = jax.local_device_count()
    wide = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (count, *np.shape(x))), tree)
    return jax.pmap(lambda t: t, axis_name=AXIS)(wide)


def unreplicate(tree: Tree) -> Tree:
    """Reads one copy of every leaf back to the host, without gathering the others."""
    return jax.tree.map(
        lambda x: np.asarray(x.addressable_shards[0].data).reshape(x.shape[1:]), tree
    )


def shard_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Puts this host's batch on its devices: `(B, ...) -> (devices, B / devices, ...)`.

    Each device gets its rows, laid out as `pmap_step` takes them, so that a step has nothing to
    move; of several hosts each places its own rows alone. Returns while they are under way.

    Raises:
      ValueError: if the batch cannot be divided.
    """
    count = jax.local_device_count()

    def split(x: Any) -> Any:
        if x.shape[0] % count:
            raise ValueError(
                f"a host batch of {x.shape[0]} cannot be divided over {count} devices: "
                f"make batch_size a multiple of {jax.device_count()}"
            )
        return x.reshape(count, x.shape[0] // count, *x.shape[1:])

    return jax.device_put(jax.tree.map(split, batch), _sharding(AXIS))


def on_every_device(tree: Tree) -> Tree:
    """Copies every leaf to all local devices, for jitted functions whose rows are spread."""
    return jax.device_put(tree, _sharding())


def spread_rows(tree: Tree) -> Tree:
    """Divides the rows of every leaf over the local devices; rows they do not divide go to all.

    A jitted function of the result works on all devices and returns what it returns on one.
    """
    count = jax.local_device_count()

    def place(x: Any) -> jax.Array:
        return jax.device_put(x, _sharding(AXIS) if x.shape[0] % count == 0 else _sharding())

    return jax.tree.map(place, tree)


def _sharding(*axes: str) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def pmap_step(step: Callable[..., Any]) -> Any:
    """Runs `step(state, batch)` on every device; the old state's buffers are reused.

    Returns:
      A function that can also be compiled ahead, by the `lower` method of `jax.jit`.
    """
    return jax.pmap(step, axis_name=AXIS, donate_argnums=(0,))


def compile_ahead(step: Any, state: Any, batch: Any) -> Callable[..., Any]:
    """Compiles what `pmap_step` made before its first call, where there is a single host.

    Of several hosts each has its own part of the arrays, which a program compiled ahead does not
    take: there the first call compiles.
    """
    return step if jax.process_count() > 1 else step.lower(state, batch).compile()


def gather_rows(
    x: Shaped[Array, "rows *rest"], axis_name: str | None
) -> Shaped[Array, "all_rows *rest"]:
    """Concatenates the devices' rows in device order; the identity without an axis."""
    if axis_name is None:
        return x
    return jax.lax.all_gather(x, axis_name, tiled=True)


def mean_over_devices(tree: Tree, axis_name: str | None) -> Tree:
    """Averages every leaf over the devices; the identity without an axis."""
    if axis_name is None:
        return tree
    return jax.lax.pmean(tree, axis_name)


def shuffle_rows(
    x: jax.Array, key: jax.Array, axis_name: str | None
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Deals the global batch anew over the devices; returns this device's rows and the way back.

    Keys that are normalised beside other images than their queries cannot be recognised by their
    batch statistics. `restore` takes rows in dealt order and returns this device's own.
    """
    if axis_name is None:
        return x, lambda rows: rows
    everything = gather_rows(x, axis_name)
    local, total = x.shape[0], everything.shape[0]
    order = jax.random.permutation(key, total)
    index = jax.lax.axis_index(axis_name)
    mine = jax.lax.dynamic_slice_in_dim(order, index * local, local)

    def restore(rows: jax.Array) -> jax.Array:
        back = jax.lax.dynamic_slice_in_dim(jnp.argsort(order), index * local, local)
        return jnp.take(gather_rows(rows, axis_name), back, axis=0)

    return jnp.take(everything, mine, axis=0), restore
