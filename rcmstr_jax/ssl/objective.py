"""The objective: terms within and between hierarchies, weighted and reduced (method section 4)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from rcmstr_jax.ssl.relational import RelationalTerms, relational_terms

HIERARCHIES: tuple[str, ...] = ("frame", "subword", "word")
PAIRS = ("frame_subword", "subword_word", "frame_word")


@dataclasses.dataclass(frozen=True)
class ContrastOptions:
    """Switches of relational contrastive learning.

    Attributes:
      hierarchies: which of frame, subword, word contrast within themselves.
      pairs: which pairs relate to each other, finer to coarser.
      temperature: tau of the contrast.
      relation_temperature: t of the relation distributions.
      alpha: weight of the relation terms.
      beta: weight of the contrast between hierarchies.
      relation: whether relation terms enter at all.
      kl_reduction: "batchmean" sums the KL over the queue; "mean" averages over it as well, as the
        published ancestor does.
      chunk: queue entries handled at a time; 0 takes what is fast on the platform.
      product_dtype: dtype of the factors of the matrix products.
    """

    hierarchies: tuple[str, ...] = HIERARCHIES
    pairs: tuple[str, ...] = PAIRS[:2]
    temperature: float = 0.07
    relation_temperature: float = 0.04
    alpha: float = 0.3
    beta: float = 0.0
    relation: bool = True
    kl_reduction: str = "batchmean"
    chunk: int = 0
    product_dtype: Any = None

    def __post_init__(self) -> None:
        for field, values, known in (
            ("hierarchies", self.hierarchies, HIERARCHIES),
            ("pairs", self.pairs, PAIRS),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"contrast.{field} holds {value!r}; known are {', '.join(known)}"
                    )
        if self.kl_reduction not in ("batchmean", "mean"):
            raise ValueError(
                f"contrast.kl_reduction={self.kl_reduction!r}; use 'batchmean' or 'mean'"
            )

    @property
    def levels(self) -> tuple[str, ...]:
        """Hierarchies that need a predictor: those that contrast and those that pairs touch."""
        used = set(self.hierarchies)
        for pair in self.pairs:
            used.update(pair.split("_"))
        return tuple(name for name in HIERARCHIES if name in used)

    @property
    def queues(self) -> tuple[str, ...]:
        """Hierarchies that need a queue: those that contrast and the coarser one of each pair."""
        used = set(self.hierarchies) | {_coarse(pair) for pair in self.pairs}
        return tuple(name for name in HIERARCHIES if name in used)


def pair_queries(
    fine: Float[Array, "batch fine dim"], coarse_count: int
) -> Float[Array, "sets rows dim"]:
    """Arranges finer queries as sets over the coarser keys that hold them.

    Sub-word `i` of `S` holds the frames `i * stride ... i * stride + window - 1` with
    `stride = floor(T / S)` and `window = T - (S - 1) * stride` (method section 4).

    Returns:
      `(window, batch * coarse_count, dim)`: row `b * coarse_count + i` meets key `i` of image `b`.
    """
    count = fine.shape[1]
    stride = count // coarse_count
    window = count - (coarse_count - 1) * stride
    index = jnp.arange(coarse_count)[:, None] * stride + jnp.arange(window)[None]
    return rearrange(fine[:, index], "b coarse window d -> window (b coarse) d")


def _coarse(pair: str) -> str:
    return pair.split("_")[1]


def _rows(x: Array) -> Array:
    return rearrange(x, "b count d -> (b count) d")


def contrastive_terms(
    queries: Mapping[str, Float[Array, "_ batch _ dim"]],
    keys: Mapping[str, Float[Array, "batch _ dim"]],
    queues_before: Mapping[str, Float[Array, "_ dim"]],
    queues_after: Mapping[str, Float[Array, "_ dim"]],
    options: ContrastOptions,
) -> dict[str, RelationalTerms]:
    """Every term of the contrastive objective, per query.

    Args:
      queries: per hierarchy (views, batch, count, dim): the plain view first, then (where used)
        the aligned rearranged view.
      keys: per hierarchy (batch, count, dim): the momentum branch's outputs for the other view.
      queues_before: queue contents as they were: negatives within a hierarchy.
      queues_after: queue contents with this step's keys: negatives between hierarchies.
      options: switches and temperatures.

    Returns:
      `RelationalTerms` by name, hierarchies first, then pairs.
    """
    shared = {
        "temperature": options.temperature,
        "relation_temperature": options.relation_temperature,
        "chunk": options.chunk,
        "product_dtype": options.product_dtype,
    }
    terms = {}
    for name in options.hierarchies:
        terms[name] = relational_terms(
            rearrange(queries[name], "views b count d -> views (b count) d"),
            _rows(keys[name]),
            queues_before[name],
            relation=options.relation,
            **shared,
        )
    joint = {}
    for coarse in dict.fromkeys(_coarse(pair) for pair in options.pairs):
        # Pairs under one whole meet the same keys and the same queue: one pass serves them all.
        pairs = [pair for pair in options.pairs if _coarse(pair) == coarse]
        count = keys[coarse].shape[1]
        sets = [pair_queries(queries[pair.split("_")[0]][0], count) for pair in pairs]
        found = relational_terms(
            jnp.concatenate(sets),
            _rows(keys[coarse]),
            queues_after[coarse],
            contrast=options.beta != 0,
            relation=options.relation,
            **shared,
        )
        ends = list(itertools.accumulate(len(q) for q in sets))
        for pair, start, end in zip(pairs, [0, *ends], ends, strict=False):
            by_query = {k: x[start:end] for k, x in found._asdict().items() if k != "key_entropy"}
            joint[pair] = found._replace(**by_query)
    terms |= {pair: joint[pair] for pair in options.pairs}
    return terms


def contrastive_objective(
    terms: Mapping[str, RelationalTerms],
    queue_sizes: Mapping[str, int],
    options: ContrastOptions,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighs and sums the terms.

    Args:
      terms: from `contrastive_terms`.
      queue_sizes: entries of the queue each term used, by term name.
      options: weights and reductions.

    Returns:
      The total (mean over queries, nats; zero without terms) and its parts by name: `nce/...`,
      `relation_kl/...`, before weighting.
    """
    total = jnp.zeros((), np.result_type(np.float32, *(term.nce.dtype for term in terms.values())))
    parts: dict[str, Array] = {}
    for name, term in terms.items():
        within = name in HIERARCHIES
        if within or options.beta:
            parts[f"nce/{name}"] = term.nce.mean()
            total += (1.0 if within else options.beta) * parts[f"nce/{name}"]
        if options.relation:
            kl = term.relation_kl.mean()
            if options.kl_reduction == "mean":
                kl /= queue_sizes[name]
            parts[f"relation_kl/{name}"] = kl
            total += options.alpha * kl
    return total, parts


def term_queue(name: str) -> str:
    """The hierarchy whose queue a term uses: its own, or the coarser one of a pair."""
    return name if name in HIERARCHIES else _coarse(name)
