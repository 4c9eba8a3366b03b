"""The relational loss, streamed and as it is written, beside its matrix products alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rcmstr_jax.benchmarking.cases import Case, Settings, compiled_program
from rcmstr_jax.ssl.objective import (
    HIERARCHIES,
    ContrastOptions,
    contrastive_objective,
    contrastive_terms,
    pair_queries,
    term_queue,
)
from rcmstr_jax.ssl.queue import queue_size
from rcmstr_jax.ssl.relational import RelationalTerms, default_chunk

DIM = 128


class LossInputs(NamedTuple):
    """Unit vectors as a step has them: two views' queries, keys, and queues before and after."""

    queries: dict[str, Float[Array, "2 batch count dim"]]
    keys: dict[str, Float[Array, "batch count dim"]]
    before: dict[str, Float[Array, "entries dim"]]
    after: dict[str, Float[Array, "entries dim"]]


def draw_inputs(settings: Settings, options: ContrastOptions) -> LossInputs:
    """Random unit vectors with the counts of a batch."""
    frames = settings.image_width // 4 + (settings.model == "cnn")
    counts = {"frame": frames, "subword": 4, "word": 1}
    random = np.random.default_rng(0)

    def unit(*shape: int) -> Array:
        x = random.normal(size=(*shape, DIM)).astype(np.float32)
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))

    b, levels = settings.batch, options.queues
    sizes = {name: queue_size(settings.queue, b * counts[name]) for name in levels}
    keys = {name: unit(b, counts[name]) for name in options.levels}
    before = {name: unit(sizes[name]) for name in levels}
    after = {
        name: queue.at[: b * counts[name]].set(keys[name].reshape(-1, DIM))
        for name, queue in before.items()
    }
    return LossInputs(
        {name: unit(2, b, counts[name]) for name in options.levels}, keys, before, after
    )


def loss_function(
    options: ContrastOptions, terms: Callable[..., dict[str, RelationalTerms]] = contrastive_terms
) -> Callable[[LossInputs], tuple[Array, Any]]:
    """Value and gradient by the queries of the whole objective."""

    def objective(queries: Any, inputs: LossInputs) -> Array:
        found = terms(queries, inputs.keys, inputs.before, inputs.after, options)
        sizes = {name: inputs.after[term_queue(name)].shape[0] for name in found}
        return contrastive_objective(found, sizes, options)[0]

    return lambda inputs: jax.value_and_grad(objective)(inputs.queries, inputs)


def naive_terms(
    queries: Any, keys: Any, before: Any, after: Any, options: ContrastOptions
) -> dict[str, RelationalTerms]:
    """`contrastive_terms` with every logit written to memory: the definition, for comparison."""
    found = {}
    for name, q, k, queue in _problems(queries, keys, before, after, options):
        positive = (q * k[None]).sum(-1) / options.temperature
        z = _product(q, queue, options)
        nce = jnp.zeros_like(positive)
        if name in HIERARCHIES:
            logits = jnp.concatenate([positive[..., None], z / options.temperature], -1)
            nce = jax.nn.logsumexp(logits, -1) - positive
        log_q = jax.nn.log_softmax(z / options.relation_temperature)
        log_k = jax.nn.log_softmax(_product(k, queue, options) / options.relation_temperature)
        p_q, p_k = jnp.exp(log_q), jnp.exp(log_k)
        gap = log_k[None] - log_q
        kl = 0.5 * (p_k[None] * gap).sum(-1) - 0.5 * (p_q * gap).sum(-1)
        best = z.max(-1)
        found[name] = RelationalTerms(nce, kl, positive, positive > best, -(p_k * log_k).sum(-1))
    return found


def matrix_products(options: ContrastOptions) -> Callable[[LossInputs], Any]:
    """The five products per pair of query and queue that no form can do without.

    Queries and keys with the queue, forward and again backward, and the slopes with the queue; in
    the streamed form's chunks. A product with ones reads each result, so that none is left out.
    """

    def products(inputs: LossInputs) -> Any:
        return {
            name: _walk(q, k, queue, options) for name, q, k, queue in _problems(*inputs, options)
        }

    return products


def _walk(q: Array, k: Array, queue: Array, options: ContrastOptions) -> Any:
    def read(rows: Array, negatives: Array) -> Array:
        return _product(rows, negatives, options) @ jnp.ones((len(negatives), 1), rows.dtype)

    def forward(sums: Any, negatives: Array) -> Any:
        return (sums[0] + read(q, negatives), sums[1] + read(k, negatives)), None

    def backward(sums: Any, negatives: Array) -> Any:
        slope = _product(_product(q, negatives, options), negatives.T, options)
        return (sums[0] + slope, sums[1] + read(k, negatives)), None

    whole = len(queue) // options.chunk * options.chunk
    chunks = queue[:whole].reshape(-1, options.chunk, DIM)
    zero = jnp.zeros_like(k[..., :1])
    found = []
    for body, start in ((forward, jnp.zeros_like(q[..., :1])), (backward, jnp.zeros_like(q))):
        sums, _ = jax.lax.scan(body, (start, zero), chunks)
        found.append(body(sums, queue[whole:])[0] if whole < len(queue) else sums)
    return found


def cases(settings: Settings, *, chunk: int) -> list[Case]:
    """The streamed loss, the naive one and the matrix products.

    Args:
      settings: sizes.
      chunk: queue entries that the streamed form handles at a time; 0 for the platform's own.
    """
    dtype = None if settings.precision == "float32" else settings.dtype
    options = ContrastOptions(
        chunk=min(chunk or default_chunk(), settings.queue), product_dtype=dtype
    )
    functions = {
        "streamed": loss_function(options),
        "naive": loss_function(options, naive_terms),
        "matrix products": matrix_products(options),
    }
    return [
        Case(
            "loss",
            name,
            lambda f=function: compiled_program(jax.jit(f), draw_inputs(settings, options)),  # type: ignore[misc]
            words=settings.batch,
        )
        for name, function in functions.items()
    ]


def query_count(settings: Settings) -> int:
    """Queries of a batch over all terms; a query in two terms counts twice."""
    options = ContrastOptions()
    small = dataclasses.replace(settings, queue=26 * settings.batch)  # their number is the same
    problems = _problems(*draw_inputs(small, options), options)
    return sum(math.prod(q.shape[:-1]) for _, q, _, _ in problems)


def _problems(queries: Any, keys: Any, before: Any, after: Any, options: ContrastOptions) -> Any:
    """(term, queries, keys, queue) of every term."""
    for name in options.hierarchies:
        q = queries[name]
        yield name, q.reshape(len(q), -1, DIM), keys[name].reshape(-1, DIM), before[name]
    for pair in options.pairs:
        fine, coarse = pair.split("_")
        q = pair_queries(queries[fine][0], keys[coarse].shape[1])
        yield pair, q, keys[coarse].reshape(-1, DIM), after[coarse]


def _product(rows: Array, queue: Array, options: ContrastOptions) -> Array:
    dtype = options.product_dtype or rows.dtype
    return jnp.matmul(rows.astype(dtype), queue.T.astype(dtype), preferred_element_type=rows.dtype)
