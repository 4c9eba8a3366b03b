"""Recognisers in the training loop: interrupted equals uninterrupted, patience, averages."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.recognition import feeds
from rcmstr_jax.recognition.fitting import recognition_job
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.task import Task
from rcmstr_jax.recognition.validation import Validation
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.skipped import SkippedSteps, TrainingDiverged
from rcmstr_jax.training import recognition_step as rs
from rcmstr_jax.training.loop import Outcome, open_session, train
from rcmstr_jax.training.plan import EvaluationPlan, LabelPlan, evaluation_plan

HEAD = make_head("linear", Charset("abc"), max_length=3)
TEXTS = ["a", "b", "c", "ab", "ba", "cab"]
FRAMES = np.random.default_rng(0).normal(size=(len(TEXTS), 8, 5)).astype(np.float32)
STEPS = 12


class Words(list):
    """Records of which only their number counts."""

    name = "words"


def settings(**changes) -> EvaluationPlan:
    config = common.get_config()
    config.compilation_cache, config.eval_batch_size = "off", 4
    config.train.update(
        steps=STEPS, steps_per_call=2, batch_size=4, log_every=4, validate_every=4, average=0.9,
        learning_rate=0.05, validation=1,
    )  # fmt: skip
    config.train.update(changes)
    return evaluation_plan(config, devices=jax.device_count())


def validation(plan: EvaluationPlan, kind: type[Validation] = Validation) -> Validation:
    return kind(plan, None, HEAD, FRAMES, TEXTS)


def run(
    workdir: Path,
    plan: EvaluationPlan,
    *,
    watch: Validation | None = None,
    name: str = "one",
    frames: np.ndarray = FRAMES,
) -> Outcome:
    encoder: Any = SimpleNamespace(frames_shape=lambda: FRAMES.shape[1:])
    subset: Any = Words(TEXTS)
    with open_session(workdir, compilation_cache="off") as session:
        task = Task(plan, session, encoder, HEAD, is_random=False, run={"name": name})
        words = feeds.TrainingWords(subset, TEXTS, SimpleNamespace(), session.faults())
        feed = feeds.MemoryFeed({"inputs": frames, **HEAD.targets(TEXTS)}, plan.loop, plan.seed)
        job = recognition_job(task, words, plan.loop, feed, encoder=None, encode=None, watch=watch)
        return train(session, job)


@pytest.fixture
def at_step(monkeypatch):
    """Has something happen once, right after a step was started."""
    add = SkippedSteps.add

    def install(number: int, happens) -> None:
        def with_event(self, step, metrics):
            if step == number:
                monkeypatch.setattr(SkippedSteps, "add", add)
                happens()
            add(self, step, metrics)

        monkeypatch.setattr(SkippedSteps, "add", with_event)

    return install


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def dies() -> None:
    raise MemoryError


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def same_lines(tmp_path: Path) -> list[dict[str, float]]:
    """The metrics of `whole`, which those of `cut` must be too."""
    for name in ("metrics.jsonl", "state_digest.txt"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()
    return [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").open()]


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, at_step) -> None:
    plan = settings()
    whole = run(tmp_path / "whole", plan, watch=validation(plan))
    at_step(6, terminate)
    cut = run(tmp_path / "cut", plan, watch=validation(plan))
    assert (cut.step, cut.finished) == (6, False)
    again = run(tmp_path / "cut", plan, watch=validation(plan))
    log = (tmp_path / "cut/log.txt").read_text()
    for said in ("SIGTERM: saving after step 6 of 12", "continuing after step 6"):
        assert said in log
    equal(whole.state, again.state)  # the best weights, their score and step among it
    assert (again.step, again.finished, again.digest) == (STEPS, True, whole.digest)
    lines = same_lines(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 12]  # training and validation in one line
    kinds = {"loss", "grad_norm", "learning_rate", "validation/word_accuracy"}
    assert all(kinds < line.keys() for line in lines)


def test_a_run_that_dies_goes_on_from_its_periodic_checkpoint(tmp_path, at_step) -> None:
    plan = settings(checkpoint_every=4, log_every=2)  # the line of step 10 is written twice
    whole = run(tmp_path / "whole", plan)
    at_step(12, dies)
    with pytest.raises(MemoryError):
        run(tmp_path / "cut", plan)
    assert '"step": 10' in (tmp_path / "cut/metrics.jsonl").read_text()
    again = run(tmp_path / "cut", plan)
    assert "continuing after step 8" in (tmp_path / "cut/log.txt").read_text()
    equal(whole.state, again.state)
    same_lines(tmp_path)


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path, at_step) -> None:
    # Of equals the first stays; equal accuracy with a smaller 1-NED is no better either.
    scores = [(10.0, 50.0), (30.0, 60.0), (30.0, 60.0), (30.0, 59.0)]
    seen: dict[str, list] = {"whole": [], "cut": []}

    def told(name: str) -> type[Validation]:
        class Told(Validation):
            def score(self, weights):
                accuracy, ned = scores[len(seen[name])]
                seen[name].append(jax.tree.map(np.array, weights))
                return {"word_accuracy": accuracy, "one_minus_ned": ned}

        return Told

    plan = settings(validate_every=2, patience=2)
    outcome = run(tmp_path / "whole", plan, watch=validation(plan, told("whole")))
    best = outcome.state.best
    equal(best["weights"], seen["whole"][1])
    assert int(best["step"]) == 4 and best["score"].tolist() == [30.0, 60.0]
    assert (outcome.step, outcome.finished) == (8, True) and len(seen["whole"]) == 4
    log = (tmp_path / "whole/log.txt").read_text()
    assert "no better for 2 validations: training ends" in log and "finished after step 8" in log
    # The average reads, not the last parameters.
    equal(seen["whole"][3]["params"], outcome.state.averaged["params"])
    kernel = outcome.state.params["decoder"]["kernel"]
    assert not np.allclose(seen["whole"][3]["params"]["decoder"]["kernel"], kernel)

    # Interrupted, the run keeps its best weights and its patience, and does not begin anew.
    at_step(6, terminate)
    assert run(tmp_path / "cut", plan, watch=validation(plan, told("cut"))).step == 6
    assert run(tmp_path / "cut", plan, watch=validation(plan, told("cut"))).step == 8
    same_lines(tmp_path)
    again = run(tmp_path / "cut", plan, watch=validation(plan, told("cut")))
    assert (again.step, again.finished, again.digest) == (8, True, outcome.digest)


def test_the_average_follows_its_formula() -> None:
    optimizer, schedule = rs.recognition_optimizer(STEPS, LabelPlan((), learning_rate=0.05))
    decoder = jax.jit(HEAD.init)(jax.random.key(3), jnp.asarray(FRAMES))
    state = rs.create_state(jax.random.key(3), decoder, optimizer, averaged=True)
    batch = {
        "inputs": jnp.asarray(FRAMES),
        "index": jnp.arange(len(TEXTS)),
        **jax.tree.map(jnp.asarray, HEAD.targets(TEXTS)),
    }
    step = jax.jit(rs.make_step(HEAD.loss, optimizer, schedule, average=0.9, axis_name=None))
    expected = np.asarray(state.params["decoder"]["bias"])
    for number in range(3):
        state, _ = step(state, batch, {})
        kept = min(0.9, (1 + number) / (10 + number))
        expected = kept * expected + (1 - kept) * np.asarray(state.params["decoder"]["bias"])
        found = state.weights()["params"]["decoder"]["bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(expected, state.params["decoder"]["bias"])


def test_the_workdir_of_another_run_is_refused(tmp_path, at_step) -> None:
    at_step(2, terminate)
    assert not run(tmp_path, settings()).finished
    with pytest.raises(ConfigError, match=r"holds another run \(name was 'one', is 'two'\)"):
        run(tmp_path, settings(), name="two")


def test_a_loss_that_is_no_number_ends_the_run(tmp_path) -> None:
    plan = settings(max_skipped=3)
    with pytest.raises(TrainingDiverged, match=r"step 4: 4 steps .* config.train.max_skipped=3"):
        run(tmp_path, plan, frames=FRAMES * np.nan)


def test_few_steps_that_are_no_number_are_skipped(tmp_path) -> None:
    """They change nothing but their counters, and the run goes on."""
    spoilt = FRAMES.copy()
    spoilt[0] = np.nan
    outcome = run(tmp_path, settings(max_skipped=STEPS), frames=spoilt)
    assert outcome.finished and 0 < int(outcome.state.skipped) < STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome.state.params))
