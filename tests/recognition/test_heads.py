"""Readings: texts and the confidence of characters and words."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcmstr_jax.data.charset import (
    ATTENTION_SPECIALS,
    CTC_SPECIALS,
    UNKNOWN_CHARACTER,
    Charset,
)
from rcmstr_jax.models.decoders.ctc import ctc_greedy
from rcmstr_jax.recognition.heads import Reading, make_head

CHARSET = Charset("ab")
BLANK, A, B = 0, len(CTC_SPECIALS), len(CTC_SPECIALS) + 1


def reading(tokens, probabilities, confidence) -> Reading:
    return Reading(np.array(tokens), np.array(probabilities), np.array(confidence))


def certain(tokens) -> Reading:
    shape = np.shape(tokens)
    return reading(tokens, np.ones(shape), np.ones(shape[0]))


def test_a_ctc_character_is_as_sure_as_the_surest_of_its_frames() -> None:
    head = make_head("ctc", CHARSET, hidden=4)
    words = head.words(
        reading(
            [[A, A, BLANK, A, B], [BLANK] * 5, [B, 1, B, B, BLANK]],
            [[0.5, 0.75, 1.0, 0.25, 0.5], [1.0] * 5, [0.5, 1.0, 0.125, 0.25, 1.0]],
            [0.25, 1.0, 0.5],
        )
    )
    assert [word.text for word in words] == ["aab", "", "bb"]  # class 1 is [PAD], which is silent
    assert [word.characters for word in words] == [(0.75, 0.25, 0.5), (), (0.5, 0.25)]
    assert [word.confidence for word in words] == [0.25, 1.0, 0.5]


def test_the_confidence_of_a_ctc_word_sums_over_its_alignments() -> None:
    logits = jax.random.normal(jax.random.key(5), (6, 4, 3))
    tokens, probabilities, confidence = ctc_greedy(logits)
    shares = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(probabilities, shares.max(-1), rtol=1e-6)

    def spelt(path) -> tuple[int, ...]:
        return tuple(c for c, _ in itertools.groupby(path) if c != BLANK)

    for row, share, sure in zip(np.asarray(tokens).tolist(), shares, confidence, strict=True):
        total = sum(
            np.prod([share[t, c] for t, c in enumerate(path)])
            for path in itertools.product(range(3), repeat=4)
            if spelt(path) == spelt(row)
        )
        assert float(sure) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "beams"), [("attention", 1), ("transformer", 1), ("transformer", 3)]
)
def test_the_confidence_of_a_word_is_the_product_up_to_its_end(name: str, beams: int) -> None:
    head = make_head(name, CHARSET, hidden=8, depth=1, max_length=4, beams=beams)
    frames = jax.random.normal(jax.random.key(0), (6, 5, 8))
    params = head.init(jax.random.key(1), frames)
    read = head.read(params, frames)
    words = head.words(read)
    for tokens, sure, word in zip(np.asarray(read.tokens), read.probabilities, words, strict=True):
        ends = np.flatnonzero(tokens == CHARSET.eos_token)
        stop = ends[0] + 1 if len(ends) else len(tokens)
        assert word.confidence == pytest.approx(float(np.prod(np.asarray(sure)[:stop])), rel=1e-4)
        assert len(word.characters) == len(word.text)


def test_a_word_without_end_keeps_its_last_character() -> None:
    head = make_head("attention", CHARSET, hidden=4)
    a, b = len(ATTENTION_SPECIALS), len(ATTENTION_SPECIALS) + 1
    words = head.words(
        reading([[a, b, a], [b, CHARSET.eos_token, a]], [[0.5, 0.25, 1.0]] * 2, [0.125, 0.125])
    )
    assert [(word.text, word.characters) for word in words] == [
        ("aba", (0.5, 0.25, 1.0)),
        ("b", (0.5,)),
    ]


def test_special_tokens_write_nothing_but_the_unknown_character() -> None:
    head = make_head("attention", Charset("abc"), hidden=4)
    texts = [word.text for word in head.words(certain([[0, 2, 1, 4, 5], [3, 5, 5, 5, 5]]))]
    assert texts == [UNKNOWN_CHARACTER + " a", ""]


@given(st.lists(st.text(alphabet="ab ", max_size=6), max_size=4))
def test_reading_undoes_the_targets(texts: list[str]) -> None:
    head = make_head("transformer", CHARSET, max_length=6)
    read = certain(head.targets(texts)["tokens"][:, 1:])
    assert [word.text for word in head.words(read)] == texts


def test_the_linear_probe_is_one_map_with_a_ctc_loss() -> None:
    head = make_head("linear", CHARSET)
    frames = jnp.ones((2, 5, 3))
    params = head.init(jax.random.key(0), frames)
    assert jax.tree.map(jnp.shape, params) == {"kernel": (3, 6), "bias": (6,)}
    total, count = head.loss(params, frames, head.targets(["ab", "a"]))
    assert float(count) == 2 and float(total) > 0


@pytest.mark.parametrize("name", ["linear", "attention"])
def test_a_weight_of_zero_leaves_a_word_out_of_sum_and_count(name: str) -> None:
    """Logits that are one known row everywhere, so that every loss is a sum of its logarithms."""
    head = make_head(name, CHARSET, hidden=2, max_length=2)
    frames = jax.random.normal(jax.random.key(3), (3, 1, 2))
    by_frame = name == "linear"
    row = np.linspace(-1.0, 1.5, 6 if by_frame else 7, dtype=np.float32)
    params = jax.tree.map(np.zeros_like, head.init(jax.random.key(4), frames))
    if by_frame:
        params["bias"] = row
    else:
        params["reader"]["generator_bias"] = row
    logs = np.log(np.exp(row) / np.exp(row).sum())
    a, b = (len(CTC_SPECIALS if by_frame else ATTENTION_SPECIALS) + i for i in range(2))
    # One frame spells one character; steps spell a character and the end.
    losses = [-logs[a], 0.0, -logs[b]] if by_frame else [-logs[[a, CHARSET.eos_token]].sum()] * 3
    if not by_frame:
        losses[1] = -logs[[a, b, CHARSET.eos_token]].sum()
        losses[2] = -logs[[b, CHARSET.eos_token]].sum()
    counts = [1, 1, 1] if by_frame else [2, 3, 2]
    targets = head.targets(["a", "ab", "b"])  # "ab" fits no single frame: a word of loss zero
    for weight in ([1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]):
        total, count = head.loss(
            params, frames, {**targets, "weight": np.asarray(weight, np.float32)}
        )
        assert float(total) == pytest.approx(np.dot(weight, losses), rel=1e-6)
        assert float(count) == np.dot(weight, counts)
    whole = head.loss(params, frames, targets)
    assert whole == head.loss(params, frames, {**targets, "weight": np.ones(3, np.float32)})


def test_only_the_transformer_searches() -> None:
    with pytest.raises(ValueError, match="decoder.beams=5 belongs to decoder.name='transformer'"):
        make_head("attention", CHARSET, beams=5)
