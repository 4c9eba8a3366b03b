"""Names and bytes of a training state: its arrays by path, their digest, and what differs.

Two runs are equal if and only if their digests are, so that a person can compare them by eye.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from rcmstr_jax.runtime.errors import ConfigError, listed

# Where a checkpoint's metadata hold their own digest.
METADATA_DIGEST = "metadata_digest"


class CheckpointMismatch(ConfigError):
    """A readable checkpoint belongs to another architecture or to other data."""


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Leaves of a pytree by slash-separated path, as host arrays of their own memory."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {leaf_name(path): np.array(leaf, copy=True) for path, leaf in leaves}


def host_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The same without a copy of what is a NumPy array already, for who does not change it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    # On CPU the host view of a donated device buffer would change under our feet.
    return {
        leaf_name(path): leaf if isinstance(leaf, np.ndarray) else np.array(leaf, copy=True)
        for path, leaf in leaves
    }


def leaf_name(path: tuple[Any, ...]) -> str:
    """A pytree path as `params/encoder/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def state_digest(state: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of all arrays, in order of their names.

    Args:
      state: a pytree of arrays, or the dictionary that `named_arrays` makes of one.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    arrays = state if isinstance(state, dict) else host_arrays(state)
    for name, array in sorted(arrays.items()):
        array = np.asarray(array)
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        # As bytes, without a copy of what is contiguous already.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def metadata_digest(metadata: Mapping[str, Any]) -> str:
    """SHA-256 over JSON-ready metadata, without the entry that holds this digest."""
    rest = {name: value for name, value in metadata.items() if name != METADATA_DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, list[Any]]:
    """`{name: [shape, type]}`, JSON-ready."""
    return {k: [list(np.shape(v)), np.dtype(v.dtype).name] for k, v in arrays.items()}


def check_shapes(stored: Mapping[str, list[Any]], wanted: Mapping[str, list[Any]]) -> None:
    """Compares names, shapes and types.

    Raises:
      CheckpointMismatch: listing every missing, unexpected and misshapen name.
    """
    differing = listed(
        missing=sorted(wanted.keys() - stored.keys()),
        unexpected=sorted(stored.keys() - wanted.keys()),
        misshapen=[
            f"{name} is {tuple(stored[name][0])} {stored[name][1]}, "
            f"needed {tuple(wanted[name][0])} {wanted[name][1]}"
            for name in sorted(stored.keys() & wanted.keys())
            if stored[name] != wanted[name]
        ],
    )
    if differing:
        raise CheckpointMismatch(f"is of another architecture: {differing}")


def misfits(found: Any, wanted: Any) -> list[str]:
    """Arrays of a tree that are missing, unexpected or misshapen beside another, a line each."""
    leaves = (jax.tree_util.tree_leaves_with_path(tree) for tree in (found, wanted))
    have, need = ({leaf_name(path): np.shape(x) for path, x in tree} for tree in leaves)
    return [
        f"{name} is {have.get(name, 'missing')}, needs {need.get(name, 'nothing')}"
        for name in sorted(have.keys() | need.keys())
        if have.get(name) != need.get(name)
    ]


def nested(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The arrays below `prefix/` as nested dictionaries, as Flax keeps them."""
    start = f"{prefix}/"
    below = {n.removeprefix(start): array for n, array in arrays.items() if n.startswith(start)}
    return traverse_util.unflatten_dict(below, sep="/")
