"""The relational loss, streamed and as it is written, beside its matrix products alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rcmstr_jax.benchmarking.cases import Case, Program, Settings, compiled_program
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


def input_shapes(
    options: ContrastOptions,
    counts: Mapping[str, int],
    sizes: Mapping[str, int],
    batch: int,
    *,
    views: int = 2,
    dim: int = DIM,
) -> LossInputs:
    """Shapes of what the loss takes.

    Args:
      options: which hierarchies and pairs there are.
      counts: vectors of an image, by hierarchy.
      sizes: entries of the queues, by hierarchy.
      batch: images.
      views: of every image.
      dim: of a vector.
    """

    def vectors(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((*shape, dim), jnp.float32)

    queues = {name: vectors(sizes[name]) for name in options.queues}
    return LossInputs(
        {name: vectors(views, batch, counts[name]) for name in options.levels},
        {name: vectors(batch, counts[name]) for name in options.levels},
        queues,
        queues,
    )


def draw_inputs(settings: Settings, options: ContrastOptions) -> LossInputs:
    """Random unit vectors with the counts of a batch."""
    counts, batch = settings.keys_per_image, settings.batch
    sizes = {name: queue_size(settings.queue, batch * count) for name, count in counts.items()}
    random = np.random.default_rng(0)

    def unit(leaf: jax.ShapeDtypeStruct) -> Array:
        x = random.normal(size=leaf.shape).astype(leaf.dtype)
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))

    drawn = jax.tree.map(unit, input_shapes(options, counts, sizes, batch))
    after = {
        name: queue.at[: batch * counts[name]].set(drawn.keys[name].reshape(-1, DIM))
        for name, queue in drawn.before.items()
    }
    return drawn._replace(after=after)


def queries_per_image(options: ContrastOptions, counts: Mapping[str, int], views: int = 2) -> int:
    """Queries of an image over all terms; one that stands in two terms counts twice."""
    within = sum(views * counts[name] for name in options.hierarchies)
    pairs = [pair.split("_") for pair in options.pairs]
    sets = [pair_queries(jnp.zeros((1, counts[fine], 1)), counts[whole]) for fine, whole in pairs]
    return within + sum(rows.size for rows in sets)


def queues_met(options: ContrastOptions) -> list[str]:
    """The queues that the terms read, one pass each: pairs of one coarse level share theirs."""
    return [*options.hierarchies, *dict.fromkeys(map(term_queue, options.pairs))]


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

    return lambda inputs: {
        name: _walk(q, k, queue, options) for name, q, k, queue in _problems(*inputs, options)
    }


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


def cases(settings: Settings) -> list[Case]:
    """The streamed loss, the naive one and the matrix products."""
    dtype = None if settings.precision == "float32" else settings.dtype
    chunk = min(settings.chunk or default_chunk(), settings.queue)
    options = ContrastOptions(chunk=chunk, product_dtype=dtype)

    def prepare(function: Callable[[LossInputs], Any]) -> Program:
        return compiled_program(jax.jit(function), draw_inputs(settings, options))

    functions = {
        "streamed": loss_function(options),
        "naive": loss_function(options, naive_terms),
        "matrix products": matrix_products(options),
    }
    return [
        Case("loss", name, functools.partial(prepare, function), settings.batch)
        for name, function in functions.items()
    ]


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
