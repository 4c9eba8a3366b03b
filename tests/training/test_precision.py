"""The precision policy: parameters, statistics and losses float32, the computation as configured.

Read off the traced step, so that nothing is compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from rcmstr_jax.runtime.arithmetic import Precision, with_products
from rcmstr_jax.ssl.objective import contrastive_objective, contrastive_terms
from rcmstr_jax.target import compiling_for
from rcmstr_jax.training import recognition_step
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


def asked_precisions(program: ClosedJaxpr) -> dict[tuple[tuple[int, ...], ...], set[Any]]:
    """What products of operands of these shapes ask for."""
    found: dict[tuple[tuple[int, ...], ...], set[Any]] = {}
    for equation in equations(program.jaxpr):
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            shapes = tuple(v.aval.shape for v in equation.invars)
            found.setdefault(shapes, set()).add(equation.params["precision"])
    return found


def test_products_ask_for_the_precision_of_their_class() -> None:
    """All of them, those of derivatives too; 96 is the length of the queues and of nothing else."""
    asked = {"model.precision": "high", "contrast.precision": "highest", "contrast.chunk": 96}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "cnn", asked)
        found = asked_precisions(trace("cnn", "float32")[0])
    high, highest = (
        {(precision, precision)}
        for precision in (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST)
    )
    loss = {shapes: said for shapes, said in found.items() if any(96 in s for s in shapes)}
    assert loss and all(said == highest for said in loss.values()), loss
    images = {shapes: said for shapes, said in found.items() if any(len(s) == 4 for s in shapes)}
    assert images and all(said == high for said in images.values()), images
    assert all(said <= high | highest for said in found.values())


def test_a_network_that_reads_asks_for_its_precision_too() -> None:
    def loss(decoder: jax.Array, frames: jax.Array, part: Any) -> Any:
        return (frames @ decoder).sum(), jnp.float32(len(frames))

    step = recognition_step.make_step(
        loss, optax.sgd(0.1), lambda _: 0.1, precision=Precision("highest"), axis_name=None
    )
    state = recognition_step.create_state(jax.random.key(0), jnp.ones((3, 2)), optax.sgd(0.1))
    batch = {"inputs": jnp.ones((4, 3)), "index": jnp.arange(4)}
    found = asked_precisions(jax.make_jaxpr(step)(state, batch, {}))
    assert found and all(said == {(jax.lax.Precision.HIGHEST,) * 2} for said in found.values())


@pytest.mark.parametrize(
    ("platform", "loss", "warps"),
    [("cpu", None, None), ("gpu", None, "highest"), ("tpu", "high", "highest")],
)
def test_defaults_follow_the_platform(platform: str, loss: str | None, warps: str | None) -> None:
    with compiling_for(platform):
        found = Precision().resolved()
        assert found == {"network": None, "loss": loss, "warps": warps}
        said = Precision().describe("float32")
        with jax.default_matmul_precision("highest"):  # JAX's own setting goes before
            assert set(Precision().resolved().values()) == {None}
            assert Precision(loss="default").resolved()["loss"] == "default"
    network = {"cpu": "float32", "gpu": "TF32", "tpu": "bfloat16, one pass"}[platform]
    assert said.startswith(f"network {network} (default); loss "), said
    assert said.endswith(f"warps float32 ({warps or 'default'})"), said


def test_a_function_with_its_products_asked_for_is_the_same_function() -> None:
    """Also what else it returns, and its derivative."""

    def function(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sin(x @ y), x[0] > 0

    def total(run: Any) -> Any:
        return jax.grad(lambda x, y: run(x, y)[0].sum(), argnums=(0, 1))

    x, y = jax.random.normal(jax.random.key(0), (2, 3, 3))
    precise = with_products(function, "highest")
    jax.tree.map(np.testing.assert_array_equal, precise(x, y), function(x, y))
    jax.tree.map(np.testing.assert_array_equal, total(precise)(x, y), total(function)(x, y))
    assert with_products(function, None) is function
