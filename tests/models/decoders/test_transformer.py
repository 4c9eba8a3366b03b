"""The transformer decoder: cache, greedy and beam search, teacher forcing, padding."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.decoders.transformer import EOS, SOS, TransformerDecoder

CLASSES, STEPS = 7, 6
MODULE = TransformerDecoder(CLASSES, width=16, depth=2, heads=2)
FRAMES = jax.random.normal(jax.random.key(1), (5, 9, 12))


@pytest.fixture(scope="module")
def variables():
    start = jnp.full((2, STEPS), SOS)
    variables = jax.jit(MODULE.init)(jax.random.key(0), FRAMES[:2], start)
    # A freshly drawn decoder is nearly indifferent: larger kernels make its choices differ.
    variables = jax.tree.map(lambda x: 3 * x if x.ndim == 2 else x, variables)
    return variables


@functools.partial(jax.jit, static_argnames=("method", "lengths"))
def apply(variables, *arguments, method=None, lengths=()):
    """The module, compiled as a whole; `lengths` are arguments that decide about shapes."""
    return MODULE.apply(variables, *arguments, *lengths, method=method)


def greedy_logits(variables, frames) -> np.ndarray:
    """Logits of every step, each fed with the likeliest token of the step before."""
    memory = apply(variables, frames, method="remember")
    cache = apply(variables, memory, method="empty_cache", lengths=(STEPS,))
    token, logits = jnp.full((len(frames), 1), SOS), []
    for step in range(STEPS):
        new, cache = apply(variables, token, memory, cache, step, method="advance")
        token = jnp.argmax(new, axis=-1)
        logits.append(new)
    return np.concatenate(logits, axis=1)


def greedy_tokens(logits) -> list[list[int]]:
    """Likeliest tokens of each word up to its [EOS]."""
    words = np.asarray(jnp.argmax(logits, axis=-1)).tolist()
    return [word[: word.index(EOS) + 1] if EOS in word else word for word in words]


@pytest.fixture(scope="module")
def greedy(variables):
    return greedy_logits(variables, FRAMES)


def test_decoding_with_a_cache_equals_decoding_without(variables, greedy) -> None:
    tokens = np.full((len(FRAMES), STEPS), 0)
    tokens[:, 0] = SOS
    for step in range(STEPS):
        # Everything anew for every character, with the padding of later places beside it.
        logits = apply(variables, FRAMES, tokens)[:, step]
        np.testing.assert_allclose(greedy[:, step], logits, rtol=1e-4, atol=1e-5)
        if step + 1 < STEPS:
            tokens[:, step + 1] = np.argmax(logits, axis=-1)
    assert len({tuple(word) for word in greedy_tokens(greedy)}) > 1


def test_teacher_forcing_gives_the_logits_of_single_steps(variables) -> None:
    tokens = jax.random.randint(jax.random.key(2), (5, STEPS), 0, CLASSES)
    together = apply(variables, FRAMES, tokens)
    memory = apply(variables, FRAMES, method="remember")
    cache = apply(variables, memory, method="empty_cache", lengths=(STEPS,))
    for step in range(STEPS):
        token = tokens[:, step : step + 1]
        logits, cache = apply(variables, token, memory, cache, step, method="advance")
        np.testing.assert_allclose(logits[:, 0], together[:, step], rtol=1e-4, atol=1e-5)


def test_later_tokens_do_not_change_earlier_logits(variables) -> None:
    tokens = np.array([[SOS, 4, 5, EOS, 0, 0]] * 5)
    other = tokens.copy()
    other[:, 3:] = 6
    a, b = apply(variables, FRAMES, tokens), apply(variables, FRAMES, other)
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert not np.allclose(a[:, 3], b[:, 3])
    short = apply(variables, FRAMES, tokens[:, :3])
    np.testing.assert_allclose(short, a[:, :3], rtol=1e-5, atol=1e-6)


def test_padding_of_the_batch_does_not_change_a_word(variables, greedy) -> None:
    padded = jnp.concatenate([FRAMES[:2], 100 * jnp.ones((3, 9, 12))])
    logits = greedy_logits(variables, padded)
    words, alone = greedy_tokens(logits)[:2], greedy_tokens(greedy)[:2]
    assert words == alone
    for i, word in enumerate(words):
        np.testing.assert_allclose(logits[i, : len(word)], greedy[i, : len(word)], rtol=1e-5)
    tokens, logs = apply(variables, padded, method="search", lengths=(STEPS, 1))
    alone, alone_logs = apply(variables, FRAMES, method="search", lengths=(STEPS, 1))
    np.testing.assert_array_equal(tokens[:2], alone[:2])
    np.testing.assert_allclose(logs[:2], alone_logs[:2], rtol=1e-5)


def test_a_beam_of_one_is_greedy(variables, greedy) -> None:
    tokens, logs = apply(variables, FRAMES, method="search", lengths=(STEPS, 1))
    for row, log, word, logits in zip(tokens, logs, greedy_tokens(greedy), greedy, strict=True):
        assert row.tolist() == word + [0] * (STEPS - len(word))
        best = jnp.max(jax.nn.log_softmax(logits[: len(word)]), axis=-1)
        np.testing.assert_allclose(log[: len(word)], best, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(log[len(word) :], 0.0)


def test_equal_logits_take_the_first_class_and_the_shortest_word(variables) -> None:
    """All seven classes alike: greedy stays with class 0 and never ends.

    Of four beams the first classes are followed, [EOS] (3) among them; to end is likelier than to
    go on, which costs a factor of seven per character.
    """
    alike = {**variables["params"]}
    alike["generator"] = jax.tree.map(jnp.zeros_like, alike["generator"])
    alike = {"params": alike}
    tokens, _ = apply(alike, FRAMES, method="search", lengths=(STEPS, 1))
    assert tokens.tolist() == [[0] * STEPS] * 5
    tokens, logs = apply(alike, FRAMES, method="search", lengths=(3, 4))
    assert tokens.tolist() == [[EOS, 0, 0]] * 5
    np.testing.assert_allclose(logs, [[-np.log(7), 0, 0]] * 5, rtol=1e-6)
    narrow, _ = apply(alike, FRAMES, method="search", lengths=(3, 2))  # [EOS] is not among two
    assert narrow.tolist() == [[0, 0, 0]] * 5


def test_a_wide_beam_finds_the_likeliest_word_of_all(variables) -> None:
    steps = 3
    every = [
        prefix + (EOS,) * (len(prefix) < steps)
        for length in range(steps + 1)
        for prefix in itertools.product([t for t in range(CLASSES) if t != EOS], repeat=length)
    ]
    padded = np.array([word + (0,) * (steps - len(word)) for word in every])
    read = np.concatenate([np.full((len(every), 1), SOS), padded[:, :-1]], axis=1)
    tokens, logs = apply(variables, FRAMES, method="search", lengths=(steps, len(every)))
    _, narrow_logs = apply(variables, FRAMES, method="search", lengths=(steps, 2))
    for i in range(len(FRAMES)):
        frames = jnp.broadcast_to(FRAMES[i], (len(every), *FRAMES[i].shape))
        scores = jax.nn.log_softmax(apply(variables, frames, read))
        own = np.take_along_axis(np.asarray(scores), padded[..., None], axis=2)[..., 0]
        mask = np.arange(steps) < np.array([len(word) for word in every])[:, None]
        totals = (own * mask).sum(axis=1)
        assert tokens[i].tolist() == padded[totals.argmax()].tolist()
        assert float(logs[i].sum()) == pytest.approx(totals.max(), rel=1e-4)
        assert float(narrow_logs[i].sum()) <= totals.max() + 1e-4


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads=3 does not divide width=16"):
        TransformerDecoder(CLASSES, width=16, heads=3).init(
            jax.random.key(0), FRAMES, jnp.zeros((5, 2), jnp.int32)
        )
