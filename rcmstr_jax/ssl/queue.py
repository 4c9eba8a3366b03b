"""FIFO queues of momentum keys (method section 4), as pure functions on a small pytree."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray


class KeyQueue(NamedTuple):
    """Normalised keys and the row that the next keys overwrite.

    Attributes:
      keys: `(size, dim)`, L2-normalised rows.
      pointer: int32 scalar, a multiple of the keys that one step adds.
    """

    keys: Float[Array, "size dim"]
    pointer: Int[Array, ""]


def queue_size(requested: int, keys_per_step: int) -> int:
    """Rounds a queue size down to a multiple of the keys that one global step adds.

    Raises:
      ValueError: if not even one step's keys fit.
    """
    size = requested // keys_per_step * keys_per_step
    if size == 0:
        raise ValueError(
            f"contrast.queue_size={requested} is smaller than the {keys_per_step} keys of one "
            f"global step: set it to at least {keys_per_step} or reduce batch_size"
        )
    return size


def init_queue(key: PRNGKeyArray, size: int, dim: int, dtype: DTypeLike = jnp.float32) -> KeyQueue:
    """Fills a queue with random unit vectors."""
    keys = jax.random.normal(key, (size, dim), dtype)
    keys /= jnp.linalg.norm(keys, axis=-1, keepdims=True)
    return KeyQueue(keys, jnp.zeros((), jnp.int32))


def sample_keys(
    key: PRNGKeyArray, keys: Float[Array, "images count dim"], number: int
) -> Float[Array, "images number dim"]:
    """So many of every image's keys, drawn without replacement for each image by itself."""
    images, count = keys.shape[:2]
    draws = jax.vmap(lambda k: jax.random.permutation(k, count)[:number])
    chosen = draws(jax.random.split(key, images))
    return jnp.take_along_axis(keys, chosen[..., None], axis=1)


def enqueue(queue: KeyQueue, keys: Float[Array, "rows dim"]) -> KeyQueue:
    """Overwrites the oldest rows with `keys`; the queue size must be a multiple of `rows`."""
    size, rows = queue.keys.shape[0], keys.shape[0]
    if size % rows:
        raise ValueError(
            f"a queue of {size} cannot take {rows} keys a step: its size must be a multiple"
        )
    keys = jax.lax.stop_gradient(keys).astype(queue.keys.dtype)
    updated = jax.lax.dynamic_update_slice_in_dim(queue.keys, keys, queue.pointer, 0)
    return KeyQueue(updated, (queue.pointer + rows) % size)
