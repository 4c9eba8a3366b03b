"""The two views of a batch, drawn on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rcmstr_jax.augment.views import make_view
from rcmstr_jax.benchmarking.cases import Case, Settings, compiled_program


def cases(settings: Settings) -> list[Case]:
    """One view of every image; a step draws two."""
    shape = (settings.batch, 32, settings.image_width, 3)

    def prepare(max_ops: int):  # type: ignore[no-untyped-def]
        images = jax.random.uniform(jax.random.key(0), shape, minval=-1.0, maxval=1.0)
        indices = jnp.arange(settings.batch)
        return compiled_program(
            jax.jit(lambda key, x: make_view(key, x, indices=indices, max_ops=max_ops)),
            jax.random.key(1),
            images,
        )

    return [Case("views", "one view, up to 5 operations", lambda: prepare(5), settings.batch)]
