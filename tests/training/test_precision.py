"""The precision policy: parameters, statistics and losses float32, the computation as configured.

Read off the traced step, so that nothing is compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from rcmstr_jax.ssl.objective import contrastive_objective, contrastive_terms
from rcmstr_jax.training.build import build_model
from tests.training.tiny_step import make_config, make_plan, make_state, make_step

ENCODERS = {
    "cnn": {},
    "vit": {"model.encoder": "vit", "model.image_width": 16, "model.depth": 1, "model.heads": 1},
}
# What normalises, and logarithms. (`exp` and sums of bfloat16 are in the derivatives of the
# network's GELU and biases; that the losses have none of them is a test of its own.)
SENSITIVE = ("log", "log1p", "rsqrt", "sqrt", "div", "cumsum")


def trace(encoder: str, dtype: str) -> tuple[ClosedJaxpr, Any, Any]:
    """The step's program, and the types of state and metrics after it."""
    config = make_config(**ENCODERS[encoder], **{"model.dtype": dtype})
    plan = make_plan(config)
    state = jax.eval_shape(lambda: make_state(config, build_model(plan)))
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *plan.model.image_size, 3), jnp.uint8),
        "index": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    step = make_step(config, None)
    program, (after, metrics) = jax.make_jaxpr(step, return_shape=True)(state, batch)
    return program, after, metrics


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """Every equation, also within loops, branches and custom derivatives."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, (Jaxpr, ClosedJaxpr)),
        ):
            if isinstance(value, (Jaxpr, ClosedJaxpr)):
                yield from equations(getattr(value, "jaxpr", value))


def floats(tree: Any) -> set[str]:
    return {x.dtype.name for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)}


def rounded_operations(program: ClosedJaxpr) -> set[str]:
    """Operations with an operand in bfloat16."""
    return {
        equation.primitive.name
        for equation in equations(program.jaxpr)
        if any(getattr(v.aval, "dtype", None) == jnp.bfloat16 for v in equation.invars)
    }


@pytest.mark.parametrize("encoder", ENCODERS)
def test_bfloat16_is_the_type_of_the_computation_alone(encoder: str) -> None:
    program, state, metrics = trace(encoder, "bfloat16")
    assert floats(state) == {"float32"}
    assert floats(metrics) == {"float32"}
    rounded = rounded_operations(program)
    assert {"cnn": "conv_general_dilated", "vit": "dot_general"}[encoder] in rounded
    assert rounded & set(SENSITIVE) == set()


def test_losses_round_the_factors_of_their_products_and_nothing_else() -> None:
    def loss(queries: jax.Array, keys: jax.Array, queue: jax.Array) -> jax.Array:
        options = make_plan(make_config(**{"model.dtype": "bfloat16"})).contrast
        options = dataclasses.replace(options, hierarchies=("word",), pairs=())
        terms = contrastive_terms(
            {"word": queries}, {"word": keys}, {"word": queue}, {"word": queue}, options
        )
        return contrastive_objective(terms, {"word": queue.shape[0]}, options)[0]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 4, 1, 8), (4, 1, 8), (128, 8))]
    program = jax.make_jaxpr(jax.value_and_grad(loss))(*shapes)
    moved = {"convert_element_type", "reshape", "transpose", "squeeze", "dynamic_slice"}
    assert rounded_operations(program) - moved == {"dot_general"}


def test_float32_has_no_bfloat16_anywhere() -> None:
    program, _, _ = trace("vit", "float32")
    types = {v.aval.dtype.name for e in equations(program.jaxpr) for v in e.outvars}
    assert "float32" in types
    assert not types & {"bfloat16", "float16", "float64"}
