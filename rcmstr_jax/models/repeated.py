"""Blocks of one kind, one after another: written out, or as a loop of the program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rcmstr_jax.models.remat import KEPT, recomputed
from rcmstr_jax.target import target_platform


def through(
    blocks: Sequence[nn.Module],
    x: Any,
    *inputs: Any,
    each: Any = None,
    again: bool = False,
    **options: Any,
) -> Any:
    """`x` through equal blocks, each of which takes `(x, *inputs, **options)` and gives a new `x`.

    On accelerators they are one loop over their stacked parameters: the program is as small, and
    compiled as fast, as that of a single block. Of every turn the input is kept for the backward
    pass and, unless `again`, what it marks by `kept`; the rest, cheap, is computed anew. On
    CPU, whose loops run their operations in a worse order, the blocks are written out. Parameters
    and their names are those of the blocks either way.

    Args:
      blocks: bound to the scope of a module; of one shape.
      x: what the first is given.
      *inputs: pytrees of arrays that every block is given as well.
      each: (blocks, ...), of which every block is given its own after these; None gives nothing.
      again: nothing but the input of a block is kept, see `models/remat.py`.
      **options: static ones.
    """
    if len(blocks) < 2 or target_platform() == "cpu" or blocks[0].is_initializing():
        for place, block in enumerate(blocks):
            own = () if each is None else (each[place],)
            x = recomputed(again, block, x, *inputs, *own, **options)
        return x
    variables = jax.tree.map(lambda *own: jnp.stack(own), *(block.variables for block in blocks))
    moving = [
        name for name in variables if name != "params" and blocks[0].is_mutable_collection(name)
    ]
    alone = blocks[0].clone(parent=None, name=None)
    leaves, form = jax.tree.flatten(inputs)

    def turn(x: Any, turned: Any) -> Any:
        own, given = turned
        # Built anew: what inputs remember of their use must not leave the loop.
        given = (*jax.tree.unflatten(form, leaves), *given)
        return alone.apply(own, x, *given, mutable=moving, **options)

    policy = None if again else jax.checkpoint_policies.save_only_these_names(KEPT)
    turned = (variables, () if each is None else (each,))
    x, moved = jax.lax.scan(jax.checkpoint(turn, prevent_cse=False, policy=policy), x, turned)
    for collection, values in moved.items():
        for name, stacked in values.items():
            for place, block in enumerate(blocks):
                block.put_variable(collection, name, jax.tree.map(lambda x: x[place], stacked))  # noqa: B023
    return x
