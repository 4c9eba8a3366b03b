"""A recogniser in the one loop: four devices, calls and parts learn what one device learns.

The decoder is a linear map of frames whose loss counts characters: parts and devices, which hold
words of other lengths, have other counts. Float32, equal up to the order of summation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.recognition.feeds import MemoryFeed
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.loop import Job, Outcome, open_session, train
from rcmstr_jax.training.plan import LabelPlan, LoopPlan

WORDS, FRAMES, WIDTH, CLASSES, BATCH = 24, 5, 6, 4, 8
PLAN = LoopPlan(total_steps=7, batch_size=BATCH, log_every=3, checkpoint_every=0, prefetch=0)
OPTIMIZER, SCHEDULE = rs.recognition_optimizer(PLAN.total_steps, LabelPlan((), learning_rate=0.05))


def words(not_a_number: int | None = None) -> dict[str, np.ndarray]:
    """Random frames with a class each, of which the first `lengths` count."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(WORDS, FRAMES, WIDTH)).astype(np.float32)
    if not_a_number is not None:
        inputs[not_a_number, 0, 0] = np.nan
    return {
        "inputs": inputs,
        "tokens": rng.integers(0, CLASSES, (WORDS, FRAMES)).astype(np.int32),
        "lengths": rng.integers(1, FRAMES + 1, WORDS).astype(np.int32),
    }


def loss(params: Any, frames: jax.Array, batch: Mapping[str, Any]) -> tuple[Any, Any]:
    """Sum over the characters, and their number."""
    logits = frames @ params["kernel"] + params["bias"][None, None]
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"])
    counts = (jnp.arange(FRAMES)[None] < batch["lengths"][:, None]).astype(jnp.float32)
    return (each * counts).sum(), counts.sum()


def fresh() -> rs.RecognitionState:
    kernel = 0.1 * jax.random.normal(jax.random.key(1), (WIDTH, CLASSES))
    decoder = {"kernel": kernel, "bias": jnp.zeros(CLASSES)}
    return rs.create_state(jax.random.key(0), decoder, OPTIMIZER, averaged=True)


def make_step(accumulation: int = 1, **options: Any) -> Any:
    return rs.make_step(
        loss, OPTIMIZER, SCHEDULE, average=0.9, accumulation=accumulation, **options
    )


def feed(plan: LoopPlan, memory: dict[str, np.ndarray]) -> MemoryFeed:
    return MemoryFeed(memory, plan, seed=0)


def by_loop(
    workdir: Path, memory: dict[str, np.ndarray], plan: LoopPlan = PLAN, *, accumulation: int = 1
) -> Outcome:
    """Trained by the loop on all devices."""
    job = Job(
        plan=plan,
        config={"name": "recogniser"},
        position=DataPosition("words", 0, BATCH),
        fresh=fresh,
        drawn=False,
        step=make_step(accumulation),
        feed=feed(plan, memory),
        faults=FaultLog(),
    )
    with open_session(workdir, compilation_cache="off", stall_timeout=0) as session:
        return train(session, job)


def on_one_device(memory: dict[str, np.ndarray], accumulation: int = 1) -> rs.RecognitionState:
    """Step by step, without collectives."""
    state, step = fresh(), jax.jit(make_step(accumulation, axis_name=None))
    source = feed(PLAN, memory)
    with source.batches(0) as batches:
        for batch in batches:
            state, _ = step(state, batch, jax.tree.map(jnp.asarray, source.constants))
    return state


@pytest.fixture(scope="module")
def expected() -> rs.RecognitionState:
    return on_one_device(words())


def assert_same(found: Any, expected: rs.RecognitionState) -> None:
    assert int(found.step) == PLAN.total_steps and int(found.skipped) == 0
    start = fresh().params["decoder"]["kernel"]
    assert np.abs(expected.params["decoder"]["kernel"] - start).max() > 0.05
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("per_call", [1, 3])
def test_four_devices_and_calls_of_three_steps_learn_what_one_device_learns(
    tmp_path: Path, expected: rs.RecognitionState, per_call: int
) -> None:
    """Seven steps: of the third call one alone is taken."""
    assert jax.local_device_count() == 4
    plan = dataclasses.replace(PLAN, steps_per_call=per_call)
    outcome = by_loop(tmp_path, words(), plan)
    assert (outcome.step, outcome.finished) == (7, True)
    assert_same(outcome.state, expected)


def test_parts_with_other_counts_learn_what_the_whole_batch_teaches(
    tmp_path: Path, expected: rs.RecognitionState
) -> None:
    assert len(set(words()["lengths"])) > 2
    assert_same(on_one_device(words(), accumulation=2), expected)
    assert_same(by_loop(tmp_path, words(), accumulation=2).state, expected)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    """One word of an epoch, on one device of four: its steps leave what was there before."""
    broken = words(not_a_number=5)
    source = feed(PLAN, broken)
    state, step = fresh(), jax.jit(make_step(axis_name=None))
    skipped = 0
    with source.batches(0) as batches:
        for number, batch in enumerate(batches, 1):
            before = state
            after, _ = step(state, batch, jax.tree.map(jnp.asarray, source.constants))
            if 5 in batch["rows"]:
                skipped += 1
                state = dataclasses.replace(
                    before,
                    step=jnp.int32(number),
                    skipped=jnp.int32(skipped),
                    skipped_in_row=before.skipped_in_row + 1,
                )
                jax.tree.map(np.testing.assert_array_equal, after, state)
            state = after
    assert 0 < skipped < PLAN.total_steps
    found = by_loop(tmp_path, broken).state
    assert int(found.skipped) == skipped
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
