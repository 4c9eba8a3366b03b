"""The training loop: interrupted equals uninterrupted, early stopping, averages, other runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.recognition import feeds
from rcmstr_jax.recognition.fit_loop import Stopped, fit
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.validation import make_validation
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.training import recognition_step as rs

HEAD = make_head("linear", Charset("abc"), max_length=3)
TEXTS = ["a", "b", "c", "ab", "ba", "cab"]
FRAMES = np.random.default_rng(0).normal(size=(len(TEXTS), 8, 5)).astype(np.float32)
STEPS = 12


def settings(**changes) -> ConfigDict:
    config = common.get_config()
    config.train.update(
        steps=STEPS, steps_per_call=2, batch_size=4, log_every=4, validate_every=4, average=0.9
    )
    config.train.update(changes)
    return config


def run(workdir: Path, config: ConfigDict, *, stop_at=None, fail_at=None, validate=None, **options):
    optimizer, schedule = rs.recognition_optimizer(STEPS, learning_rate=0.05)
    state = rs.create_state(
        jax.random.key(3), HEAD, FRAMES.shape[1:], optimizer, averaged=config.train.average > 0
    )
    memory = {"inputs": FRAMES, **HEAD.targets(TEXTS)}

    def make_feed(start: int):
        for at, call in enumerate(feeds.memory_feed(memory, config, start)):
            if start + 2 * at == stop_at:
                signal.raise_signal(signal.SIGTERM)
            if start + 2 * at == fail_at:
                raise MemoryError
            yield call

    return fit(
        rs.make_chunk(rs.make_step(HEAD, optimizer, average=config.train.average)),
        state,
        make_feed,
        config,
        workdir=workdir,
        identity=options.get("identity", ConfigDict({"name": "one"})),
        position=DataPosition("words", 0, 4),
        schedule=schedule,
        validate=validate,
        log=options.get("log", lambda line: None),
    )


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def real_validation():
    return make_validation(None, HEAD, FRAMES, TEXTS, 4, "alphanumeric")


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path) -> None:
    config = settings()
    whole, outcome = run(tmp_path / "whole", config, validate=real_validation())
    with pytest.raises(Stopped, match="SIGTERM: saved after step 6 of 12"):
        run(tmp_path / "cut", config, stop_at=4, validate=real_validation())
    told: list[str] = []
    again, second = run(tmp_path / "cut", config, validate=real_validation(), log=told.append)
    assert "continuing after step 6" in told[0]
    equal(whole, again)
    assert outcome == second
    curves = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert curves[0] == curves[1]
    lines = [json.loads(line) for line in curves[0].splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]  # training and validation in one line
    kinds = {"loss", "grad_norm", "learning_rate", "validation/word_accuracy"}
    assert all(kinds < line.keys() for line in lines)


def test_a_run_that_dies_goes_on_from_its_periodic_checkpoint(tmp_path) -> None:
    config = settings(checkpoint_every=4, log_every=2)  # the line of step 10 is written twice
    whole, _ = run(tmp_path / "whole", config)
    with pytest.raises(MemoryError):
        run(tmp_path / "cut", config, fail_at=10)
    lines: list[str] = []
    again, _ = run(tmp_path / "cut", config, log=lines.append)
    assert "continuing after step 8" in lines[0]
    equal(whole, again)
    curves = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert curves[0] == curves[1]


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path) -> None:
    # Of equals the first stays; equal accuracy with a smaller 1-NED is no better either.
    scores = iter([(10.0, 50.0), (30.0, 60.0), (30.0, 60.0), (30.0, 59.0)])
    seen = []

    def validate(weights):
        seen.append(jax.tree.map(np.array, weights))
        accuracy, ned = next(scores)
        return {"word_accuracy": accuracy, "one_minus_ned": ned}

    lines: list[str] = []
    config = settings(validate_every=2, patience=2)
    weights, outcome = run(tmp_path, config, validate=validate, log=lines.append)
    equal(weights, seen[1])
    assert outcome == {"steps": 4, "validation": {"word_accuracy": 30.0, "one_minus_ned": 60.0}}
    assert len(seen) == 4 and any("stopped after step 8" in line for line in lines)
    # The average reads, not the last parameters.
    assert not np.allclose(seen[0]["params"]["decoder"]["kernel"], 0.0)


def test_the_average_follows_its_formula() -> None:
    config = settings(steps_per_call=1)
    optimizer, _ = rs.recognition_optimizer(STEPS, learning_rate=0.05)
    state = rs.create_state(jax.random.key(3), HEAD, FRAMES.shape[1:], optimizer, averaged=True)
    batch = {"inputs": jnp.asarray(FRAMES), **jax.tree.map(jnp.asarray, HEAD.targets(TEXTS))}
    step = jax.jit(rs.make_step(HEAD, optimizer, average=config.train.average))
    expected = np.asarray(state.params["decoder"]["bias"])
    for number in range(3):
        state, _ = step(state, batch)
        kept = min(0.9, (1 + number) / (10 + number))
        expected = kept * expected + (1 - kept) * np.asarray(state.params["decoder"]["bias"])
        found = state.weights()["params"]["decoder"]["bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(expected, state.params["decoder"]["bias"])


def test_the_workdir_of_another_run_is_refused(tmp_path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, settings(), stop_at=0)
    with pytest.raises(ConfigError, match="holds a recogniser of another run.*name was 'one'"):
        run(tmp_path, settings(), identity=ConfigDict({"name": "two"}))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "FRAMES", FRAMES * np.nan)
    with pytest.raises(FloatingPointError, match="train.learning_rate=0.0005"):
        run(tmp_path, settings())
