"""Streamed terms against their definition, in values and gradients."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.ssl.relational import relational_terms


def unit(key, *shape, dtype=jnp.float64):
    x = jax.random.normal(key, shape, dtype)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def naive(queries, keys, queue, temperature=0.07, relation_temperature=0.04):
    """The definition, with every logit written out."""
    positive = (queries * keys[None]).sum(-1) / temperature
    z = queries @ queue.T
    logits = jnp.concatenate([positive[..., None], z / temperature], -1)
    nce = jax.nn.logsumexp(logits, -1) - positive
    log_q = jax.nn.log_softmax(z / relation_temperature)
    log_k = jax.nn.log_softmax(keys @ queue.T / relation_temperature)
    p_q, p_k = jnp.exp(log_q), jnp.exp(log_k)
    kl = 0.5 * (p_k[None] * (log_k[None] - log_q)).sum(-1)
    kl += 0.5 * (p_q * (log_q - log_k[None])).sum(-1)
    return nce, kl, -(p_k * log_k).sum(-1)


def problem(key, sets, rows, dim, size, dtype=jnp.float64):
    """Queries, keys and a queue of unit vectors."""
    keys = jax.random.split(key, 3)
    return (
        unit(keys[0], sets, rows, dim, dtype=dtype),
        unit(keys[1], rows, dim, dtype=dtype),
        unit(keys[2], size, dim, dtype=dtype),
    )


def test_hand_computed_values(x64):
    q = jnp.array([[[1.0, 0.0]]])
    k = jnp.array([[0.0, 1.0]])
    queue = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    terms = relational_terms(q, k, queue, temperature=0.5, relation_temperature=1.0, chunk=1)
    # Positive similarity 0; negatives 1 and 0: logits 0, 2, 0.
    assert terms.nce[0, 0] == pytest.approx(math.log(1 + math.e**2 + 1))
    # p_q = (e, 1) / (e + 1), p_k = (1, e) / (e + 1); both KLs are (e - 1) / (e + 1).
    assert terms.relation_kl[0, 0] == pytest.approx((math.e - 1) / (math.e + 1))
    assert terms.positive_logit[0, 0] == 0.0
    assert not terms.correct[0, 0]


def test_equals_the_definition(x64):
    q, k, n = problem(jax.random.key(0), 2, 6, 8, 100)

    def gradient_of(function):
        def weighed(q):
            terms = function(q, k, n)
            return (terms[0] * jnp.arange(6.0)[None]).sum() + (terms[1] ** 2).sum(), terms

        return jax.jit(jax.grad(weighed, has_aux=True))(q)

    expected, (nce, kl, entropy) = gradient_of(naive)
    for chunk in (1, 7, 100, 1000):
        gradient, terms = gradient_of(partial(relational_terms, chunk=chunk))
        np.testing.assert_allclose(terms.nce, nce, rtol=1e-10)
        np.testing.assert_allclose(terms.relation_kl, kl, rtol=1e-10)
        np.testing.assert_allclose(terms.key_entropy, entropy, rtol=1e-10)
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-10)


@partial(jax.jit, static_argnames=("sets", "rows", "size", "chunk"))
def both_ways(key, scale, *, sets, rows, size, chunk):
    """The gradient of both terms, and their values, streamed and by the definition."""
    q, k, n = problem(key, sets, rows, 4, size)

    def streamed(q):
        terms = relational_terms(q, k, n, chunk=chunk)
        return terms.nce.sum() + 0.3 * terms.relation_kl.sum(), terms[:2]

    def direct(q):
        terms = naive(q, k, n)
        return terms[0].sum() + 0.3 * terms[1].sum(), terms[:2]

    return [jax.grad(f, has_aux=True)(q * scale) for f in (streamed, direct)]


# Shapes are few, because each is compiled; numbers are many.
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(1e-3, 30.0),
    sizes=st.sampled_from([(1, 1, 1, 1), (2, 3, 17, 5), (1, 3, 17, 50)]),
)
def test_extreme_logits(seed, scale, sizes):
    sets, rows, size, chunk = sizes
    with jax.enable_x64(True):
        (gradient, terms), (expected, values) = both_ways(
            jax.random.key(seed), scale, sets=sets, rows=rows, size=size, chunk=chunk
        )
        np.testing.assert_allclose(terms, values, rtol=1e-10, atol=1e-10)
        # Relative to the largest entry, but to no less than 1: where both distributions have all
        # their weight on one negative, terms of 1 / t = 25 cancel down to 1e-170.
        largest = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10 * largest)


def test_gradient_reaches_queries_alone(x64):
    q, k, n = problem(jax.random.key(3), 1, 5, 4, 20)

    def total(q, k, n):
        terms = relational_terms(q, k, n)
        return terms.nce.sum() + terms.relation_kl.sum()

    to_q, to_k, to_n = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(q, k, n)
    assert jnp.abs(to_q).max() > 0
    assert jnp.abs(to_k).max() == 0 and jnp.abs(to_n).max() == 0


def test_equal_queries_and_keys_have_no_relation_loss(x64):
    _, k, n = problem(jax.random.key(4), 1, 5, 4, 20)

    def divergence(q):
        kl = relational_terms(q, k, n).relation_kl
        return kl.sum(), kl

    gradient, kl = jax.jit(jax.grad(divergence, has_aux=True))(k[None])
    np.testing.assert_allclose(kl, 0.0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)


def test_under_vmap_and_pmap(x64):
    q, k, n = problem(jax.random.key(5), 2, 8, 4, 30)
    split_q = jnp.moveaxis(q.reshape(2, 4, 2, 4), 1, 0)
    split_k = k.reshape(4, 2, 4)

    def one(q, k):
        def total(q):
            terms = relational_terms(q, k, n, chunk=8)
            return terms.relation_kl.sum(), terms.nce

        return jax.grad(total, has_aux=True)(q)

    slope, nce = jax.jit(one)(q, k)
    for mapped in (jax.jit(jax.vmap(one)), jax.pmap(one)):
        slopes, parts = mapped(split_q, split_k)
        np.testing.assert_allclose(jnp.moveaxis(parts, 0, 1).reshape(2, 8), nce, rtol=1e-12)
        slopes = jnp.moveaxis(slopes, 0, 1).reshape(2, 8, 4)
        np.testing.assert_allclose(slopes, slope, rtol=1e-9)


# Largest error of a term in nats, and of the gradient relative to its largest entry, as the
# docstring of `relational_terms` states them. Measured over three draws and both sizes, with room
# for a factor of three: scale 1 is the method's, 10 makes logits of 250.
BOUNDS = {
    (None, 1.0): (7e-6, 3e-6),
    (None, 10.0): (1e-4, 2e-5),
    (jnp.bfloat16, 1.0): (0.02, 0.002),
    (jnp.bfloat16, 10.0): (0.2, 0.05),
}


@pytest.mark.parametrize(("rows", "size", "chunk"), [(16, 2048, 512), (8, 65_536, 0)])
def test_rounded_arithmetic_stays_within_stated_bounds(rows, size, chunk, x64):
    def gradient_of(function):
        def total(q, k, n):
            terms = function(q, k, n)
            return terms[0].mean() + 0.3 * terms[1].mean(), terms[:2]

        return jax.jit(jax.grad(total, has_aux=True))

    direct = gradient_of(naive)
    streamed = {
        dtype: gradient_of(partial(relational_terms, chunk=chunk, product_dtype=dtype))
        for dtype in (None, jnp.bfloat16)
    }
    q, k, n = problem(jax.random.key(6), 2, rows, 128, size)
    q = 0.5 * q.at[0].add(k)  # one set is related to its keys, as in training
    for (dtype, scale), (of_values, of_gradient) in BOUNDS.items():
        expected, values = direct(scale * q, k, n)
        gradient, terms = streamed[dtype](*(x.astype(jnp.float32) for x in (scale * q, k, n)))
        for ours, theirs in zip(terms, values, strict=True):
            assert ours.dtype == jnp.float32
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=of_values)
        largest = float(jnp.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=of_gradient * largest)


def sizes_of(jaxpr):
    """Elements of everything that a traced program computes, down to the bodies of its loops."""
    for equation in jaxpr.eqns:
        yield from (out.aval.size for out in equation.outvars)
        for param in equation.params.values():
            for inner in param if isinstance(param, tuple | list) else (param,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from sizes_of(inner)


def test_no_matrix_of_queries_by_queue_is_ever_made():
    sets, rows, dim, size = 2, 24, 4, 200
    shapes = ((sets, rows, dim), (rows, dim), (size, dim))
    q, k, n = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    def largest(function):
        def total(q, k, n):
            terms = function(q, k, n)
            return terms[0].sum() + terms[1].sum()

        return max(sizes_of(jax.make_jaxpr(jax.value_and_grad(total))(q, k, n).jaxpr))

    assert largest(naive) >= sets * rows * size
    for chunk in (32, 50):  # with a rest, and without
        streamed = partial(relational_terms, chunk=chunk)
        assert largest(streamed) == sets * rows * chunk


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": jnp.ones((3, 4))}, "queries must be"),
        ({"queue": jnp.ones((0, 4))}, "queue must be"),
        ({"queue": jnp.ones((5, 3))}, "dim=4"),
        ({"temperature": 0.0}, "temperature"),
        ({"chunk": -1}, "chunk"),
    ],
)
def test_bad_arguments_are_named(change, message, unchecked):
    arguments = {
        "queries": jnp.ones((1, 3, 4)),
        "keys": jnp.ones((3, 4)),
        "queue": jnp.ones((5, 4)),
    }
    with pytest.raises(ValueError, match=message):
        relational_terms(**{**arguments, **change})
