"""The check that kills and restarts: its plan, and a short one of it."""

from __future__ import annotations

import signal

import pytest

from rcmstr_jax.training import resume_check
from rcmstr_jax.training.resume_check import (
    STARTING,
    STEPPING,
    WRITING,
    ResumeCheck,
    plan_kills,
    total_steps,
    verify_resume,
)


def test_kills_are_spread_over_the_run_and_leave_room_for_a_checkpoint_to_be_met():
    kills = plan_kills(20, seed=0)
    assert len(kills) == 20
    steps = [kill.step for kill in kills]
    assert steps == sorted(steps)
    assert steps[0] <= 12
    assert total_steps(20) / 2 < steps[-1] < total_steps(20) - resume_check._CHECKPOINT_EVERY
    assert {kill.kind for kill in kills} == {STEPPING, WRITING, STARTING}
    assert sum(kill.kind == WRITING for kill in kills) >= 5
    assert kills == plan_kills(20, seed=0)
    assert kills != plan_kills(20, seed=1)
    assert WRITING in {kill.kind for kill in plan_kills(1, seed=0)}


@pytest.fixture
def check(tmp_path) -> ResumeCheck:
    return ResumeCheck(tmp_path / "check", ["true"], kills=1, seed=0)


def test_every_process_of_a_run_has_the_same_command(check):
    command = check.command("a")
    assert command == check.command("a")
    assert f"--workdir={check.folder / 'a'}" in command
    assert "--config.model.dtype=float32" in command
    assert len(list((check.folder / "images").iterdir())) == 48


def test_a_difference_is_found_and_shown(check):
    for name, digest, loss in (("a", "12", "1.0"), ("b", "12", "1.0"), ("c", "34", "2.0")):
        (check.folder / name).mkdir()
        (check.folder / name / "state_digest.txt").write_text(f"{digest}  step 1\n")
        (check.folder / name / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {loss}}}\n')
    assert check.differences("b", "a") == []
    digest, metrics = check.differences("c", "a")
    assert "state_digest.txt of c and a differ, first in line 1: 34  step 1 | 12  step 1" in digest
    assert '{"step": 1, "loss": 2.0} | {"step": 1, "loss": 1.0}' in metrics


@pytest.mark.long
def test_one_kill_of_each_signal_changes_no_bit(repository, tmp_path, monkeypatch):
    # The launcher is started as a user would: without the four devices of the tests.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    said: list[str] = []
    equal = verify_resume(
        tmp_path / "check",
        kills=1,
        seed=0,
        signals=(signal.SIGKILL, signal.SIGTERM),
        config=f"{repository}/configs/pretrain/mini.py:test",
        say=said.append,
    )
    report = "\n".join(said)
    assert equal, report
    assert "SIGKILL  1: writing" in report
    assert "exit -9" in report
    assert "equal, bit for bit" in report
