"""Memory for arithmetic: what a module found is computed again in the backward pass, not kept."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

# What is kept for the backward pass: everything; the input of each block; the images alone (and,
# while an encoder is computed again, the input of each block).
REMAT = ("none", "blocks", "full")
KEPT = "kept"


def kept(x: jax.Array) -> jax.Array:
    """`x`, marked as worth its memory where the rest of a block is computed again."""
    return checkpoint_name(x, KEPT)


def recomputed(again: bool, module: nn.Module, *inputs: Any, **options: Any) -> Any:
    """`module(*inputs, **options)`, whose insides are not kept for the backward pass if `again`.

    Parameters, statistics and values are the same. Exchanges between devices are done again, too.
    XLA for CPU merges both computations again, so that nothing is won there.

    Args:
      again: False calls the module as it is.
      module: bound to a scope, as within another module.
      *inputs: pytrees of arrays.
      **options: static ones, or arrays without a gradient.
    """
    if not again:
        return module(*inputs, **options)
    return nn.remat(lambda module, *inputs: module(*inputs, **options))(module, *inputs)
