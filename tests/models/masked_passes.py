"""What the tests of masked encoders share: a pass with its gradients, and how figures compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def gradients(model: nn.Module, form: str, visible_count: int | None = None) -> Any:
    """A compiled function: features, active frames, statistics and gradients of a masked pass."""

    def run(variables: Any, images: Any, mask: Any, cotangent: Any) -> Any:
        def loss(params: Any, images: Any) -> Any:
            (features, active), state = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mask=mask,
                form=form,
                visible_count=visible_count,
                mutable=["batch_stats"],
            )
            return jnp.sum(features * cotangent), (features, active, state)

        grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return grad(variables["params"], images)

    return jax.jit(run)


def drawing(random: np.random.Generator) -> Callable[[Any, Any], jax.Array]:
    """Draws parameters and statistics that no initialisation would draw, for `tree_map`."""

    def draw(path: Any, leaf: Any) -> jax.Array:
        normal = random.normal(size=leaf.shape)
        if leaf.ndim > 1:
            return jnp.asarray(normal * (2 / np.prod(leaf.shape[:-1])) ** 0.5)
        of_one = path[-1].key in ("scale", "var")
        return jnp.asarray(np.exp(0.2 * normal) if of_one else 0.2 * normal)

    return draw


def assert_equal(ours: Any, theirs: Any) -> None:
    """To 1e-9 of the largest figure of each array."""

    def check(a: Any, b: Any) -> None:
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(
            np.asarray(a, float), np.asarray(b, float), rtol=0, atol=1e-9 * scale
        )

    jax.tree.map(check, ours, theirs)
