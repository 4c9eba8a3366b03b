"""Dense tasks in the one loop: four devices learn what one does, killed equals uninterrupted."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.dense.fitting import check_apart, chosen_rows, dense_job
from rcmstr_jax.runtime.skipped import SkippedSteps
from rcmstr_jax.training.loop import Outcome, open_session, train
from rcmstr_jax.training.recognition_step import make_step, recognition_optimizer
from tests.dense.toy_task import toy_arrays, toy_plan, toy_task

TASKS = ("segmentation", "super_resolution")


def by_loop(workdir: Path, task: str, **changes) -> Outcome:
    with open_session(workdir, compilation_cache="off") as session:
        job = dense_job(toy_task(toy_plan(task, **changes), session), toy_arrays(task))
        return train(session, job)


@pytest.mark.parametrize("task", TASKS)
def test_four_devices_learn_what_one_device_learns_and_a_killed_run_too(
    tmp_path, monkeypatch, task
) -> None:
    """The encoder learns, too. The killed run goes on from the checkpoint of its fourth step."""
    assert jax.local_device_count() == 4
    whole = by_loop(tmp_path / "whole", task)
    assert (whole.step, whole.finished) == (6, True)

    add = SkippedSteps.add

    def dies(self, step, metrics):
        if step == 6:
            monkeypatch.setattr(SkippedSteps, "add", add)
            raise MemoryError
        add(self, step, metrics)

    monkeypatch.setattr(SkippedSteps, "add", dies)
    with pytest.raises(MemoryError):
        by_loop(tmp_path / "cut", task, checkpoint_every=4)
    again = by_loop(tmp_path / "cut", task, checkpoint_every=4)
    assert "continuing after step 4" in (tmp_path / "cut/log.txt").read_text()
    assert again.digest == whole.digest

    # On one device, step by step, without collectives.
    plan = toy_plan(task)
    with open_session(tmp_path / "one", compilation_cache="off") as session:
        own = toy_task(plan, session)
        job = dense_job(own, toy_arrays(task))
    optimizer, schedule = recognition_optimizer(6, plan.train, own.encoder.params)

    def encode(params, stats, images, constants):
        return own.encoder.maps(params, stats, own.head.shown(images), train=True)

    step = jax.jit(make_step(own.head.loss, optimizer, schedule, encode=encode, axis_name=None))
    state, constants = job.fresh(), jax.tree.map(jnp.asarray, dict(job.feed.constants))
    first = job.fresh()
    with job.feed.batches(0) as batches:
        for batch in batches:
            state, _ = step(state, batch, constants)
    for found, expected in zip(
        jax.tree.leaves(whole.state.params), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5)
    moved = [
        np.abs(a - b).max()
        for part in ("encoder", "decoder")
        for a, b in zip(
            jax.tree.leaves(state.params[part]), jax.tree.leaves(first.params[part]), strict=True
        )
    ]
    assert max(moved) > 0.01


def test_maps_in_memory_teach_what_the_frozen_encoder_teaches_in_every_step(tmp_path) -> None:
    kept, anew = (
        by_loop(tmp_path / str(gib), "segmentation", frozen=True, memory_gib=gib, steps=2)
        for gib in (1.0, 0.0)
    )
    assert set(kept.state.params) == {"decoder"}
    for one, other in zip(
        jax.tree.leaves(kept.state.params), jax.tree.leaves(anew.state.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_subsets_are_nested_and_more_than_there_is_is_refused() -> None:
    few, many = (chosen_rows(toy_plan("segmentation", labels=n), 100) for n in (20.0, 0.5))
    assert len(few) == 20 and len(many) == 50
    np.testing.assert_array_equal(many[:20], few)
    with pytest.raises(ValueError, match=r"train.labels=20, but .* holds 12 words: ask for fewer"):
        chosen_rows(toy_plan("segmentation", labels=20.0), 12)


@pytest.mark.parametrize(
    ("trained", "scored", "same"),
    [
        ("rendered:0:100:easy:train", "rendered:0:50:hard", True),
        ("rendered:0:100:easy:train", "rendered:0:50:easy:test", False),
        ("rendered:0:100", "rendered:1:100", False),
        ("textseg:data/a", "textseg:data/a:test", True),
        ("textseg:data/a:train", "textseg:data/a:test", False),
        ("textzoom:data/a/train", "textzoom:data/a", True),
        ("textzoom:data/a/train", "textzoom:data/a/test", False),
        ("crops:data/a,data/b", "crops:data/c,data/b", True),
        ("rendered:0:100", "crops:rendered", False),
    ],
)
def test_what_is_scored_is_not_trained_on(trained: str, scored: str, same: bool) -> None:
    if not same:
        return check_apart(trained, ("rendered:9:9", scored))
    with pytest.raises(ValueError, match="overlaps with .* must not be trained on"):
        check_apart(trained, (scored,))
    return None
