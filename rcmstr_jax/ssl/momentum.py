"""The momentum branch: exponential moving average of the online parameters (method section 3)."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Tree = TypeVar("Tree")


def ema_update(average: Tree, online: Tree, momentum: float | Float[Array, ""]) -> Tree:
    """`average * momentum + online * (1 - momentum)`, leaf by leaf, in the dtype of `average`."""

    def blend(a: Array, o: Array) -> Array:
        wide, kept = np.promote_types(a.dtype, o.dtype), momentum
        if isinstance(kept, jax.Array):
            wide = np.promote_types(wide, kept.dtype)
            kept = kept.astype(wide)
        return (a.astype(wide) * kept + o.astype(wide) * (1.0 - kept)).astype(a.dtype)

    return jax.tree.map(blend, average, online)


def momentum_schedule(
    step: Int[Array, ""],
    total_steps: int,
    start: float,
    final: float | None,
    exponent: float = 1.0,
) -> Float[Array, ""]:
    """Momentum of a step: constant, or rising from `start` to `final` along half a cosine.

    Args:
      step: finished steps.
      total_steps: length of the rise.
      start: share of the average that is kept after a reference batch.
      final: the same at the end, None for a constant one.
      exponent: reference batches in a step: its momentum is the share to this power, so that the
        average reaches back over equally many images at any batch size.
    """
    if final is None:
        return jnp.asarray(start**exponent)
    progress = jnp.clip(step / max(total_steps, 1), 0.0, 1.0)
    share = final - (final - start) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return share if exponent == 1.0 else share**exponent
