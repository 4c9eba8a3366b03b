"""Types and shapes that meet by accident are errors in tests; within Optax they are not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax


def be_strict() -> None:
    """Has JAX refuse every implicit promotion from now on, but for those that Optax makes itself.

    Its schedules multiply step counts by floats, Adam raises a float to one, and its CTC loss
    multiplies float32 with one-hot vectors that are float64 under `jax_enable_x64`.
    """
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    optax.tree.bias_correction = _standard(optax.tree.bias_correction)
    optax.ctc_loss = _standard(optax.ctc_loss)
    for name in (
        "cosine_decay_schedule",
        "cosine_onecycle_schedule",
        "piecewise_constant_schedule",
    ):
        setattr(optax, name, _schedule(getattr(optax, name)))


def _standard(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return call


def _schedule(make: Callable[..., optax.Schedule]) -> Callable[..., optax.Schedule]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> optax.Schedule:
        return _standard(make(*args, **kwargs))

    return made
