"""Data parallelism over devices and hosts. The only file that knows `jax.pmap`.

A move to `jax.shard_map` changes this file alone: the step is written against `AXIS` and calls
the collectives below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, Shaped

AXIS = "devices"
Tree = TypeVar("Tree")


def replicate(tree: Tree) -> Tree:
    """Puts a copy of every leaf on each local device, along a new leading axis.

    Goes through the axis of the step, so that the step is not compiled again for its own output.
    """
    if not jax.tree.leaves(tree):
        return tree
    count = jax.local_device_count()
    wide = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (count, *np.shape(x))), tree)
    return jax.pmap(lambda t: t, axis_name=AXIS)(wide)


def unreplicate(tree: Tree) -> Tree:
    """Reads one copy of every leaf back to the host, into memory of its own; not the others."""
    mine = jax.tree.map(lambda x: x.addressable_shards[0].data, tree)
    for leaf in jax.tree.leaves(mine):  # all are on their way before the first is waited for
        leaf.copy_to_host_async()
    # A CPU's would otherwise be views of buffers that the next step is given.
    copy = True if jax.default_backend() == "cpu" else None
    return jax.tree.map(lambda x: np.array(x, copy=copy).reshape(x.shape[1:]), mine)


def shard_batch(batch: dict[str, Any], *, stacked: bool = False) -> dict[str, Any]:
    """Puts this host's batch on its devices: `(B, ...) -> (devices, B / devices, ...)`.

    Each device gets its rows, laid out as `pmap_step` takes them, so that a step has nothing to
    move; of several hosts each places its own rows alone. Returns while they are under way.

    Args:
      batch: arrays with a row per image.
      stacked: batches of several steps, `(steps, B, ...) -> (devices, steps, B / devices, ...)`.

    Raises:
      ValueError: if the batch cannot be divided.
    """
    count = jax.local_device_count()

    def split(x: Any) -> Any:
        rows = x.shape[stacked]
        if rows % count:
            raise ValueError(
                f"a host batch of {rows} cannot be divided over {count} devices: "
                f"make batch_size a multiple of {jax.device_count()}"
            )
        if stacked:
            return einops.rearrange(x, "s (d b) ... -> d s b ...", d=count)
        return einops.rearrange(x, "(d b) ... -> d b ...", d=count)

    return jax.device_put(jax.tree.map(split, batch), _sharding(AXIS, among=jax.local_devices()))


def on_every_device(tree: Tree) -> Tree:
    """Copies every leaf to all devices of all hosts, which have to have the same values."""
    return jax.tree.map(lambda x: _place(x), tree)


def spread_rows(tree: Tree) -> Tree:
    """Divides the rows of every leaf over all devices; rows they do not divide go to all.

    Several hosts have to call it together, with the same rows. A jitted function of the result
    works on all devices and returns what it returns on one.
    """
    count = jax.device_count()
    return jax.tree.map(lambda x: _place(x, *(() if np.shape(x)[0] % count else (AXIS,))), tree)


def _place(x: Any, *axes: str) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, _sharding(*axes), lambda index: x[index])


def _sharding(*axes: str, among: Sequence[jax.Device] | None = None) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.asarray(among or jax.devices()), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def map_rows(function: Callable[[Any, Any], Any]) -> Callable[[Any], Callable[[Any], Any]]:
    """A function of rows on all devices of all hosts, every host getting all results.

    Args:
      function: `(weights, rows) -> results` with a row per row; compiled once per shape.

    Returns:
      A function that puts weights on every device, once, and returns a function of arrays on the
      host with a common number of rows, see `spread_rows`. Results are host arrays.
    """
    compiled = jax.jit(function, out_shardings=_sharding())

    def with_weights(weights: Any) -> Callable[[Any], Any]:
        held = on_every_device(weights)

        def run(rows: Any) -> Any:
            found = compiled(held, spread_rows(rows))
            return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), found)

        return run

    return with_weights


def whole_batches(rows: Sequence[Any] | np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """All rows in batches of one size, so that one compilation serves all, and how many count.

    The last batch is filled up with its last row.
    """
    for start in range(0, len(rows), size):
        batch = np.asarray(rows[start : start + size])
        filling = np.repeat(batch[-1:], size - len(batch), axis=0)
        yield np.concatenate([batch, filling]), len(batch)


def pmap_step(step: Callable[..., Any], devices: Sequence[Any] | None = None) -> Any:
    """Runs `step(state, batch, ...)` on every device; the old state's buffers are reused.

    Args:
      step: of one device.
      devices: that it is made for, by default those at hand; others can only be compiled for.

    Returns:
      A function that can also be compiled ahead, by the `lower` method of `jax.jit`.
    """
    return jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=(0,))


def compile_ahead(step: Any, *arguments: Any) -> Callable[..., Any]:
    """Compiles what `pmap_step` made before its first call, where there is a single host.

    Of several hosts each has its own part of the arrays, which a program compiled ahead does not
    take: there the first call compiles.
    """
    return step if jax.process_count() > 1 else step.lower(*arguments).compile()


def gather_rows(
    x: Shaped[Array, "rows *rest"], axis_name: str | None, order: Int[Array, " all"] | None = None
) -> tuple[Shaped[Array, "rows *rest"], Shaped[Array, "all_rows *rest"]]:
    """This device's rows, and those of all devices in global order.

    Args:
      x: rows of this device; where they were dealt by `deal_rows`, in dealt order.
      axis_name: device axis; None stands for a single device.
      order: of `deal_rows`, where `x` was dealt.
    """
    if axis_name is None:
        return x, x
    everybody = jax.lax.all_gather(x, axis_name, tiled=True)
    if order is None:
        return x, everybody
    everybody = jnp.take(everybody, jnp.argsort(order), axis=0)
    first = jax.lax.axis_index(axis_name) * x.shape[0]
    return jax.lax.dynamic_slice_in_dim(everybody, first, x.shape[0]), everybody


def mean_over_devices(tree: Tree, axis_name: str | None) -> Tree:
    """Averages every leaf over the devices; the identity without an axis."""
    if axis_name is None:
        return tree
    return jax.lax.pmean(tree, axis_name)


def deal_rows(
    x: Shaped[Array, "rows *rest"], key: PRNGKeyArray, axis_name: str | None
) -> tuple[Shaped[Array, "rows *rest"], Int[Array, " all"] | None]:
    """Deals the rows of all devices anew; `gather_rows` is the way back.

    Keys that are normalised beside other images than their queries cannot be recognised by their
    batch statistics.

    Returns:
      The rows dealt to this device, and the order; without an axis the rows as they are, and None.
    """
    if axis_name is None:
        return x, None
    _, everything = gather_rows(x, axis_name)
    order = jax.random.permutation(key, everything.shape[0])
    first = jax.lax.axis_index(axis_name) * x.shape[0]
    mine = jax.lax.dynamic_slice_in_dim(order, first, x.shape[0])
    return jnp.take(everything, mine, axis=0), order
