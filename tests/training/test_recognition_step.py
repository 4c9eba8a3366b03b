"""The recogniser's training step: decoders learn, chunks equal steps, orders are pure functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.recognition.feeds import epoch_rows
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.loop import repeated
from rcmstr_jax.training.plan import LabelPlan, LoopPlan
from rcmstr_jax.training.step_inputs import images_to_float

CHARSET = Charset.preset(36)
WORDS = ["cat", "dog", "otter", "yak", "emu", "see", "bee", "a"]
FRAMES = 12


def word_frames(words: list[str]) -> np.ndarray:
    """Frames that spell a word, two per character, so that any decoder can learn them."""
    frames = np.zeros((len(words), FRAMES, 37), np.float32)
    for row, word in zip(frames, words, strict=True):
        for t in range(FRAMES):
            row[t, CHARSET.characters.index(word[t // 2]) if t // 2 < len(word) else 36] = 1.0
    return frames


def setup(name: str, steps: int, rate: float = 1e-2):
    head = make_head(name, CHARSET, hidden=24, depth=2, max_length=6)
    optimizer, schedule = rs.recognition_optimizer(steps, LabelPlan((), learning_rate=rate))
    decoder = jax.jit(head.init)(jax.random.key(0), jnp.zeros((2, FRAMES, 37)))
    state = rs.create_state(jax.random.key(0), decoder, optimizer)
    step = rs.make_step(head.loss, optimizer, schedule, axis_name=None)
    memory = {"inputs": jnp.asarray(word_frames(WORDS)), **head.targets(WORDS)}
    return head, step, state, {"memory": jax.tree.map(jnp.asarray, memory)}


def in_calls(step, steps: int, per_call: int):
    """Several steps in a call, as the loop makes them."""
    plan = LoopPlan(total_steps=steps, batch_size=len(WORDS), steps_per_call=per_call)
    return jax.jit(repeated(step, plan))


def batches(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"rows": rows, "index": np.arange(rows.size).reshape(rows.shape)}


@pytest.mark.parametrize(
    ("name", "steps", "rate", "right"),
    [("ctc", 250, 2e-2, 8), ("attention", 400, 1e-2, 7), ("transformer", 120, 3e-3, 8)],
)
def test_a_decoder_learns_words_that_its_frames_spell(
    name: str, steps: int, rate: float, right: int
) -> None:
    head, step, state, constants = setup(name, steps, rate)
    run, losses = in_calls(step, steps, 10), []
    for first in range(0, steps, 10):
        rows = epoch_rows(0, len(WORDS), 8, first, 10)
        state, metrics = run(state, batches(rows), constants)
        losses.append(float(metrics["loss"]))
    assert int(state.step) == steps
    assert losses[-1] < 0.2 * losses[0]
    words = head.words(head.read(state.params["decoder"], constants["memory"]["inputs"]))
    guesses = [word.text for word in words]
    assert sum(a == b for a, b in zip(guesses, WORDS, strict=True)) >= right, guesses


def test_a_call_equals_its_steps_and_skips_those_beyond_the_last() -> None:
    _, step, state, constants = setup("ctc", 10)
    rows = epoch_rows(3, len(WORDS), 4, 0, 3)
    one_by_one, losses = state, []
    for chosen in rows[:2]:
        memory = constants["memory"]
        batch = jax.tree.map(lambda column, chosen=chosen: column[chosen], memory)
        one_by_one, metrics = jax.jit(step)(one_by_one, batch, {})
        losses.append(float(metrics["loss"]))
    together, values = in_calls(step, 2, 3)(state, batches(rows), constants)
    assert int(together.step) == 2
    np.testing.assert_allclose(values["loss"], np.mean(losses), rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(together.params), jax.tree.leaves(one_by_one.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_attention_loss_ignores_padding_and_targets_eos() -> None:
    head, _, state, constants = setup("attention", 10)
    memory = constants["memory"]
    targets = {key: memory[key] for key in ("tokens", "lengths")}
    total, count = head.loss(state.params["decoder"], memory["inputs"], targets)
    # One target per character and one [EOS] per word.
    assert float(count) == sum(len(word) + 1 for word in WORDS)
    untrained = float(total / count)
    assert untrained == pytest.approx(np.log(CHARSET.num_attention_classes), rel=0.1)


def test_encoder_rate_and_frozen_rectifier() -> None:
    optimizer, schedule = rs.recognition_optimizer(
        10, LabelPlan((), learning_rate=1.0, clip=0.0, encoder_multiplier=0.1)
    )
    ones = {"w": jnp.ones(3)}
    params = {"decoder": ones, "encoder": {"encoder": ones, "rectifier": ones}}
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    rate = float(schedule(0))
    np.testing.assert_allclose(updates["decoder"]["w"], -rate, rtol=1e-5)
    np.testing.assert_allclose(updates["encoder"]["encoder"]["w"], -0.1 * rate, rtol=1e-5)
    assert not np.any(updates["encoder"]["rectifier"]["w"])


def test_gradients_are_clipped_together() -> None:
    optimizer, _ = rs.recognition_optimizer(10, LabelPlan((), clip=5.0))
    params = {"decoder": {"w": jnp.zeros(1)}, "encoder": {"encoder": {"w": jnp.zeros(1)}}}
    grads = {
        "decoder": {"w": jnp.array([300.0])},
        "encoder": {"encoder": {"w": jnp.array([400.0])}},
    }
    clipped, _ = optax.clip_by_global_norm(5.0).update(grads, optax.EmptyState())
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moments = [leaf for leaf in jax.tree.leaves(state) if jnp.shape(leaf) == (1,)]
    expected = sorted([0.1 * 3.0, 0.1 * 4.0, 0.001 * 9.0, 0.001 * 16.0])
    np.testing.assert_allclose(np.sort(np.concatenate(moments)), expected, rtol=1e-4)
    assert float(clipped["encoder"]["encoder"]["w"][0]) == pytest.approx(4.0)


def test_schedule_is_one_cycle() -> None:
    _, schedule = rs.recognition_optimizer(
        1000, LabelPlan((), learning_rate=5e-4, warmup_share=0.3)
    )
    rates = np.array([float(schedule(step)) for step in range(1000)])
    assert int(rates.argmax()) == 300 and rates.max() == pytest.approx(5e-4)
    assert rates[0] == pytest.approx(5e-4 / 25) and rates[-1] < 1e-7


def test_fine_tuning_trains_the_encoder_and_its_statistics(monkeypatch) -> None:
    seen = []

    def halve(key, images, *, indices, max_ops):
        assert indices.shape == images.shape[:1]
        seen.append((str(key.dtype), max_ops))
        return images / 2

    monkeypatch.setattr(rs, "make_view", halve)
    head = make_head("ctc", CHARSET, hidden=8, max_length=6)
    optimizer, schedule = rs.recognition_optimizer(5, LabelPlan((), learning_rate=1e-2))

    def draw(key, places):
        return (places % 2).astype(jnp.float32)[:, None, None]

    def encode(params, stats, images, constants, *, branches):
        assert images.dtype == jnp.float32
        assert branches.shape == (8, 1, 1)
        columns = images.mean((1, 3))[:, :, None] * params["encoder"]["w"][None, None]
        return columns, {"encoder": {"mean": stats["encoder"]["mean"] * 0.9 + columns.mean()}}

    encoder = {"encoder": {"w": jnp.ones(4)}}
    statistics = {"encoder": {"mean": jnp.zeros(())}}
    state = rs.create_state(
        jax.random.key(1), head.init(jax.random.key(1), jnp.zeros((2, FRAMES, 4))), optimizer,
        encoder_params=encoder, batch_stats=statistics,
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (8, 32, FRAMES, 3)).astype(np.uint8)
    memory = {"inputs": jnp.asarray(images), **jax.tree.map(jnp.asarray, head.targets(WORDS))}
    step = rs.make_step(
        head.loss, optimizer, schedule, encode=encode, view_ops=4, branches=draw, axis_name=None
    )
    rows = epoch_rows(0, 8, 8, 0, 3)
    state, metrics = in_calls(step, 3, 3)(state, batches(rows), {"memory": memory})
    assert np.isfinite(metrics["loss"])
    assert seen[0][1] == 4 and "key" in seen[0][0]
    assert not np.allclose(state.params["encoder"]["encoder"]["w"], 1.0)
    assert float(state.batch_stats["encoder"]["mean"]) != 0.0
    np.testing.assert_array_equal(encoder["encoder"]["w"], 1.0)


def test_images_to_float() -> None:
    images = jnp.array([[[[0, 255, 128]]]], jnp.uint8)
    np.testing.assert_allclose(
        images_to_float(images)[0, 0, 0], [-1.0, 1.0, 128 / 127.5 - 1], atol=1e-6
    )
    assert images_to_float(jnp.full((1, 1, 1, 3), 0.25))[0, 0, 0, 0] == 0.25


@settings(max_examples=50, deadline=None)
@given(
    num_words=st.integers(1, 30), batch=st.integers(1, 40), first=st.integers(0, 20),
    steps=st.integers(1, 6),
)  # fmt: skip
def test_rows_are_a_pure_function_of_the_step(num_words, batch, first, steps) -> None:
    rows = epoch_rows(5, num_words, batch, first, steps)
    assert rows.shape == (steps, batch) and rows.min() >= 0 and rows.max() < num_words
    whole = epoch_rows(5, num_words, batch, 0, first + steps)
    np.testing.assert_array_equal(whole[first:], rows)
    flat = whole.reshape(-1)
    for epoch in range(len(flat) // num_words):
        part = flat[epoch * num_words : (epoch + 1) * num_words]
        assert sorted(part) == list(range(num_words))


def test_unknown_decoder() -> None:
    with pytest.raises(ValueError, match="decoder.name='rnn'.*ctc, linear, attention, plain_att"):
        make_head("rnn", CHARSET)
