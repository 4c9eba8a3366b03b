"""Weights, reductions and the arrangement of parts under their whole."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.ssl import objective
from rcmstr_jax.ssl.objective import ContrastOptions, contrastive_objective, pair_queries

contrastive_terms = jax.jit(objective.contrastive_terms, static_argnums=4)


def unit(seed, *shape):
    x = jax.random.normal(jax.random.key(seed), shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


COUNTS = {"frame": 26, "subword": 4, "word": 1}


@pytest.fixture(scope="module")
def inputs():
    queries = {n: unit(i, 2, 3, c, 8) for i, (n, c) in enumerate(COUNTS.items())}
    keys = {n: unit(10 + i, 3, c, 8) for i, (n, c) in enumerate(COUNTS.items())}
    before = {n: unit(20 + i, 40, 8) for i, n in enumerate(COUNTS)}
    after = {n: unit(30 + i, 40, 8) for i, n in enumerate(COUNTS)}
    return queries, keys, before, after


def test_windows_of_frames_under_their_subword():
    frames = jnp.broadcast_to(jnp.arange(26.0)[None, :, None], (2, 26, 1))
    sets = pair_queries(frames + 100 * jnp.arange(2.0)[:, None, None], 4)
    assert sets.shape == (8, 8, 1)  # stride 6, window 26 - 3 * 6 = 8; rows 2 images * 4 sub-words
    np.testing.assert_array_equal(sets[:, 0, 0], np.arange(8))
    np.testing.assert_array_equal(sets[:, 3, 0], np.arange(18, 26))
    np.testing.assert_array_equal(sets[:, 5, 0], np.arange(106, 114))
    assert pair_queries(frames, 1).shape == (26, 2, 1)


def test_counts_of_a_batch(inputs):
    terms = contrastive_terms(*inputs, ContrastOptions())
    assert {n: t.nce.size for n, t in terms.items()} == {
        "frame": 2 * 3 * 26,
        "subword": 2 * 3 * 4,
        "word": 2 * 3,
        "frame_subword": 3 * 32,
        "subword_word": 3 * 4,
    }


def test_pairs_under_one_whole_share_a_pass_and_keep_their_terms(inputs):
    options = ContrastOptions(pairs=("frame_word", "frame_subword", "subword_word"), beta=0.5)
    joint = contrastive_terms(*inputs, options)
    assert set(joint) == {"frame", "subword", "word", *options.pairs}
    for pair in options.pairs:
        alone = dataclasses.replace(options, hierarchies=(), pairs=(pair,))
        terms = contrastive_terms(*inputs, alone)[pair]
        for ours, expected in zip(joint[pair], terms, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    program = jax.make_jaxpr(objective.contrastive_terms, static_argnums=4)(*inputs, options)
    passes = [e for e in program.jaxpr.eqns if e.primitive.name.startswith("custom_vjp")]
    assert len(passes) == 5  # one per hierarchy, and one per whole of the three pairs


def test_total_is_the_weighted_sum(inputs):
    options = ContrastOptions(beta=0.5, alpha=0.2, pairs=("frame_subword", "frame_word"))
    terms = contrastive_terms(*inputs, options)
    total, parts = contrastive_objective(terms, {n: 40 for n in terms}, options)
    expected = sum(parts[f"nce/{n}"] + 0.2 * parts[f"relation_kl/{n}"] for n in COUNTS)
    expected += sum(
        0.5 * parts[f"nce/{n}"] + 0.2 * parts[f"relation_kl/{n}"] for n in options.pairs
    )
    assert total == pytest.approx(float(expected), rel=1e-6)


def test_mean_reduction_divides_by_the_queue(inputs):
    terms = contrastive_terms(*inputs, ContrastOptions())
    sums, means = (
        contrastive_objective(
            terms, dict.fromkeys(terms, 40), ContrastOptions(kl_reduction=reduction)
        )[1]
        for reduction in ("batchmean", "mean")
    )
    for name in ("frame", "subword_word"):
        a, b = sums[f"relation_kl/{name}"], means[f"relation_kl/{name}"]
        assert float(a) == pytest.approx(40 * float(b), rel=1e-6)


def test_parts_that_are_switched_off_are_absent(inputs):
    options = ContrastOptions(hierarchies=("subword",), pairs=(), relation=False)
    assert options.levels == options.queues == ("subword",)
    terms = contrastive_terms(*inputs, options)
    total, parts = contrastive_objective(terms, {"subword": 40}, options)
    assert list(parts) == ["nce/subword"]
    assert total == parts["nce/subword"]
    only_pair = ContrastOptions(hierarchies=("frame",), pairs=("subword_word",))
    assert only_pair.levels == ("frame", "subword", "word")
    assert only_pair.queues == ("frame", "word")


def test_without_terms_the_objective_is_zero():
    total, parts = contrastive_objective({}, {}, ContrastOptions(hierarchies=(), pairs=()))
    assert (total, parts) == (0, {})


def test_unknown_names():
    with pytest.raises(ValueError, match="contrast.hierarchies holds 'char'"):
        ContrastOptions(hierarchies=("char",))
    with pytest.raises(ValueError, match="contrast.pairs holds 'word_frame'"):
        ContrastOptions(pairs=("word_frame",))
    with pytest.raises(ValueError, match="kl_reduction='sum'"):
        ContrastOptions(kl_reduction="sum")
