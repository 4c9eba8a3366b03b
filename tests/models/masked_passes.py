"""What the tests of masked encoders share: a pass with its gradients, and how figures compare."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def assert_nothing_hidden_is_dense(model: nn.Module, encoder: Any, grid: tuple[int, int]) -> Any:
    """A mask that hides nothing: all frames active, and the figures of the dense pass.

    Args:
      model: the encoder.
      encoder: variables, images, cotangent, and its masked-dense pass (see `gradients`).
      grid: of the mask; packed, all of its patches are visible.

    Returns:
      The dense result in inference mode, and the compiled forward pass.
    """
    variables, images, cotangent, masked = encoder
    mask = jnp.zeros((len(images), *grid), bool)
    (_, (features, active, state)) = masked(variables, images, mask, cotangent)
    assert bool(active.all())

    @partial(jax.jit, static_argnames=("train", "form", "visible_count"))
    def forward(train: bool = False, **masked: Any) -> Any:
        return model.apply(variables, images, train=train, mutable=["batch_stats"], **masked)

    (dense, none), dense_state = forward(train=True)
    assert none is None
    assert_equal((features, state), (dense, dense_state))
    (dense, _), _ = forward()
    visible = grid[0] * grid[1]
    assert_equal(forward(mask=mask, form="packed", visible_count=visible)[0][0], dense)
    return dense, forward
