"""Both decoders: the published figures, CTC by enumeration, greedy against teacher-forced."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.decoders.attention import AttentionDecoder
from rcmstr_jax.models.decoders.ctc import CtcDecoder, ctc_greedy, ctc_loss
from rcmstr_jax.verification.parity import decoders, report

loss = jax.jit(ctc_loss)


def test_match_the_published_code(golden_dir: Path) -> None:
    rows = report.check_file(golden_dir / decoders.FILE, decoders.check)
    # Without 64-bit numbers too: the figures are float32.
    assert [row for row in rows if row.verdict != "PASS"] == []
    assert len(rows) == 12


def enumerated_loss(logits: np.ndarray, word: tuple[int, ...]) -> float:
    """-log of the summed probability of every path that spells the word."""
    frames, classes = logits.shape
    logs = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    total = 0.0
    for path in itertools.product(range(classes), repeat=frames):
        joined = tuple(c for c, _ in itertools.groupby(path) if c != 0)
        if joined == word:
            total += np.exp(sum(logs[t, c] for t, c in enumerate(path)))
    return -np.log(total) if total else np.inf


@pytest.mark.parametrize("word", [(1,), (1, 2), (2, 2)])
def test_ctc_loss_sums_over_all_paths(word: tuple[int, ...]) -> None:
    logits = np.asarray(jax.random.normal(jax.random.key(3), (4, 3)))
    labels = np.zeros((1, 3), np.int32) + 1
    labels[0, : len(word)] = word
    total, count = loss(jnp.asarray(logits)[None], labels, jnp.array([len(word)]))
    assert float(total) == pytest.approx(enumerated_loss(logits, word) / len(word), rel=1e-5)
    assert float(count) == 1


def test_equal_logits_take_the_first_class() -> None:
    """Three frames: four classes alike, then the last two, then the last alone."""
    logits = jnp.array([[[0.0, 0, 0, 0], [-9e9, -9e9, 0, 0], [-9e9, -9e9, -9e9, 0]]])
    tokens, sure, whole = jax.jit(ctc_greedy)(logits)
    assert tokens.tolist() == [[0, 2, 3]]  # 0 is the blank
    np.testing.assert_allclose(sure, [[1 / 4, 1 / 2, 1]])
    # "23" is spelt by 0-2-3 and 2-2-3 (1/8 each); 2-3-3 as well.
    np.testing.assert_allclose(whole, [3 / 8], rtol=1e-6)


def test_impossible_words_count_with_zero_loss_and_gradient() -> None:
    logits = jax.random.normal(jax.random.key(0), (2, 3, 3))
    labels, lengths = jnp.array([[1, 1], [1, 2]]), jnp.array([2, 2])
    # "11" needs three frames (with a blank between), "111" five.
    total, count = loss(logits, labels, lengths)
    assert float(count) == 2 and np.isfinite(float(total))
    longer = jnp.array([[1, 1, 1], [1, 2, 1]])
    losses = jax.jit(jax.grad(lambda x: ctc_loss(x, longer, jnp.array([3, 3]))[0]))(logits)
    np.testing.assert_array_equal(losses[0], 0)
    assert np.abs(losses[1]).max() > 0


def test_ctc_weights_leave_padding_of_the_batch_out() -> None:
    logits = jax.random.normal(jax.random.key(0), (2, 5, 4))
    labels, lengths = jnp.array([[1, 2], [3, 1]]), jnp.array([2, 1])
    both, _ = loss(logits, labels, lengths, jnp.array([1.0, 0.0]))
    alone, count = loss(logits[:1], labels[:1], lengths[:1])
    assert float(both) == pytest.approx(float(alone)) and float(count) == 1


def test_greedy_decoding_is_teacher_forcing_with_its_own_tokens() -> None:
    module = AttentionDecoder(num_classes=7, hidden=6)
    frames = 2 * jax.random.normal(jax.random.key(0), (3, 5, 4))
    variables = jax.jit(module.init)(jax.random.key(1), frames, jnp.zeros((3, 2), jnp.int32))
    scale = jax.tree.map(lambda leaf: 3 * leaf, variables)  # so that the tokens differ
    decode = jax.jit(lambda start: module.apply(scale, frames, 6, start, method="decode"))
    greedy = decode(2)
    tokens = jnp.argmax(greedy, axis=-1)
    read = jnp.concatenate([jnp.full((3, 1), 2), tokens[:, :-1]], axis=1)
    np.testing.assert_allclose(jax.jit(module.apply)(scale, frames, read), greedy, atol=1e-5)
    assert not np.allclose(decode(0), greedy)


def test_shapes_and_jit() -> None:
    frames = jnp.zeros((2, 5, 4))
    ctc = CtcDecoder(num_classes=9, hidden=3)
    variables = jax.jit(ctc.init)(jax.random.key(0), frames)
    assert jax.jit(ctc.apply)(variables, frames).shape == (2, 5, 9)
    assert set(variables["params"]) == {"context", "generator"}
