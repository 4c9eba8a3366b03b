"""Streamed terms against their definition, in values and gradients."""

from __future__ import annotations

import math

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
    positive = (queries * keys).sum(-1) / temperature
    z = queries @ queue.T
    logits = jnp.concatenate([positive[..., None], z / temperature], -1)
    nce = jax.nn.logsumexp(logits, -1) - positive
    log_q = jax.nn.log_softmax(z / relation_temperature)
    log_k = jax.nn.log_softmax(keys @ queue.T / relation_temperature)
    p_q, p_k = jnp.exp(log_q), jnp.exp(log_k)
    kl = 0.5 * (p_k * (log_k - log_q)).sum(-1) + 0.5 * (p_q * (log_q - log_k)).sum(-1)
    return nce, kl, -(p_k * log_k).sum(-1)


def problem(seed, sets, rows, dim, size, dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(seed), 3)
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


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 1000])
def test_equals_the_definition(x64, chunk):
    q, k, n = problem(0, 2, 6, 8, 100)

    def streamed(q):
        terms = relational_terms(q, k, n, chunk=chunk)
        return terms, (terms.nce * jnp.arange(6)).sum() + (terms.relation_kl**2).sum()

    def direct(q):
        nce, kl, _ = naive(q, k, n)
        return (nce * jnp.arange(6)).sum() + (kl**2).sum()

    terms, _ = streamed(q)
    nce, kl, entropy = naive(q, k, n)
    np.testing.assert_allclose(terms.nce, nce, rtol=1e-10)
    np.testing.assert_allclose(terms.relation_kl, kl, rtol=1e-10)
    np.testing.assert_allclose(terms.key_entropy, entropy, rtol=1e-10)
    gradient = jax.grad(lambda q: streamed(q)[1])(q)
    np.testing.assert_allclose(gradient, jax.grad(direct)(q), rtol=1e-9, atol=1e-10)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sets=st.sampled_from([1, 2]),
    rows=st.sampled_from([1, 3]),
    size=st.sampled_from([1, 17]),
    chunk=st.sampled_from([1, 5, 50]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_extreme_logits(seed, sets, rows, size, chunk, scale):
    with jax.enable_x64(True):
        q, k, n = problem(seed, sets, rows, 4, size)
        q = q * scale
        terms = relational_terms(q, k, n, chunk=chunk)
        nce, kl, _ = naive(q, k, n)
        np.testing.assert_allclose(terms.nce, nce, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(terms.relation_kl, kl, rtol=1e-9, atol=1e-9)
        gradient = jax.grad(lambda q: relational_terms(q, k, n, chunk=chunk).relation_kl.sum())(q)
        expected = jax.grad(lambda q: naive(q, k, n)[1].sum())(q)
        np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-7)


def test_gradient_reaches_queries_alone(x64):
    q, k, n = problem(3, 1, 5, 4, 20)

    def total(q, k, n):
        terms = relational_terms(q, k, n)
        return terms.nce.sum() + terms.relation_kl.sum()

    to_q, to_k, to_n = jax.grad(total, argnums=(0, 1, 2))(q, k, n)
    assert jnp.abs(to_q).max() > 0
    assert jnp.abs(to_k).max() == 0 and jnp.abs(to_n).max() == 0


def test_equal_queries_and_keys_have_no_relation_loss(x64):
    _, k, n = problem(4, 1, 5, 4, 20)
    terms = relational_terms(k[None], k, n)
    np.testing.assert_allclose(terms.relation_kl, 0.0, atol=1e-12)
    gradient = jax.grad(lambda q: relational_terms(q, k, n).relation_kl.sum())(k[None])
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)


def test_under_vmap_and_pmap(x64):
    q, k, n = problem(5, 2, 8, 4, 30)
    whole = relational_terms(q, k, n, chunk=8)
    split_q = jnp.moveaxis(q.reshape(2, 4, 2, 4), 1, 0)
    split_k = k.reshape(4, 2, 4)

    def one(q, k):
        return relational_terms(q, k, n, chunk=8)

    for mapped in (jax.vmap(one), jax.pmap(one)):
        parts = mapped(split_q, split_k)
        np.testing.assert_allclose(
            jnp.moveaxis(parts.nce, 0, 1).reshape(2, 8), whole.nce, rtol=1e-12
        )
    slope = jax.pmap(jax.grad(lambda q, k: one(q, k).relation_kl.sum()))(split_q, split_k)
    expected = jax.grad(lambda q: relational_terms(q, k, n).relation_kl.sum())(q)
    np.testing.assert_allclose(jnp.moveaxis(slope, 0, 1).reshape(2, 8, 4), expected, rtol=1e-9)


def test_bfloat16_products_stay_close():
    q, k, n = problem(6, 2, 16, 64, 512, dtype=jnp.float32)
    exact = relational_terms(q, k, n)
    rough = relational_terms(q, k, n, product_dtype=jnp.bfloat16)
    # A similarity of 64 products rounded to 8 bits errs by about 2**-9, over 0.07 and 0.04.
    np.testing.assert_allclose(rough.nce, exact.nce, atol=0.1)
    np.testing.assert_allclose(rough.relation_kl, exact.relation_kl, atol=0.2)
    assert rough.nce.dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": jnp.ones((3, 4))}, "queries must be"),
        ({"queue": jnp.ones((0, 4))}, "queue must be"),
        ({"queue": jnp.ones((5, 3))}, "dim=4"),
        ({"temperature": 0.0}, "temperature"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {
        "queries": jnp.ones((1, 3, 4)),
        "keys": jnp.ones((3, 4)),
        "queue": jnp.ones((5, 4)),
    }
    with pytest.raises(ValueError, match=message):
        relational_terms(**{**arguments, **change})
