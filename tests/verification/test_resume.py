"""The check that kills and restarts: its plan, and a short one of it."""

from __future__ import annotations

import signal
import sys

import pytest

from rcmstr_jax.data.sources import open_source
from rcmstr_jax.runtime.errors import EXIT_PREEMPTED
from rcmstr_jax.verification import resume as resume_check
from rcmstr_jax.verification.resume import (
    PRETRAINING,
    RECOGNITION,
    STARTING,
    STEPPING,
    SUBJECTS,
    WRITING,
    Kill,
    ResumeCheck,
    ResumeFailed,
    allowed_codes,
    plan_kills,
    total_steps,
    verify_resume,
)
from tests.flags import xla_flags


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
    return ResumeCheck(tmp_path / "check", SUBJECTS[PRETRAINING], kills=1, seed=0)


def test_every_process_of_a_run_has_the_same_command(check):
    command = check.command("a")
    assert command == check.command("a")
    assert f"--workdir={check.folder / 'a'}" in command
    assert "--config.model.dtype=float32" in command
    assert f"--config.data.source=lmdb:{check.folder / 'words'}" in command
    assert len(open_source(f"lmdb:{check.folder / 'words'}")) == 48


def test_a_difference_is_found_and_shown(check):
    for name, digest, loss in (("a", "12", "1.0"), ("b", "12", "1.0"), ("c", "34", "2.0")):
        (check.folder / name).mkdir()
        (check.folder / name / "state_digest.txt").write_text(f"{digest}  step 1\n")
        (check.folder / name / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {loss}}}\n')
    assert check.differences("b", "a") == []
    digest, metrics = check.differences("c", "a")
    assert "state_digest.txt of c and a differ, first in line 1: 34  step 1 | 12  step 1" in digest
    assert '{"step": 1, "loss": 2.0} | {"step": 1, "loss": 1.0}' in metrics


# Takes steps and saves as a run does. What it does on SIGTERM, and how it saves, is told to it.
STAND_IN = """
import json, pathlib, signal, sys, time
workdir, total = pathlib.Path(sys.argv[1].split("=")[1]), int(sys.argv[2])
saves, leaves_half = "saves" in sys.argv[3], "half" in sys.argv[3]
def stop(*_):
    sys.exit(75)
if saves:
    signal.signal(signal.SIGTERM, stop)
folder = workdir / "checkpoints"
folder.mkdir(parents=True, exist_ok=True)
done = max([int(p.name) for p in folder.iterdir() if p.name.isdigit()], default=0)
lines = [json.dumps({"step": step}) + chr(10) for step in range(1, total + 1)]
(workdir / "new").write_text("".join(lines[:done]))
(workdir / "new").replace(workdir / "metrics.jsonl")
for step in range(done + 1, total + 1):
    time.sleep(0.02)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(lines[step - 1])
    if step % 3 == 0:
        half = folder / f"{step}.orbax-checkpoint-tmp-1"
        if leaves_half:
            half.mkdir(exist_ok=True)
            time.sleep(0.06)
            half.rmdir()
        (folder / str(step)).mkdir(exist_ok=True)
(workdir / "state_digest.txt").write_text("12  step 1")
(workdir / "log.txt").touch()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The check of a run that only looks like one, and is quick."""

    def make(behaviour: str, kind: str) -> ResumeCheck:
        monkeypatch.setattr(resume_check, "_IMAGES", 1)
        script = tmp_path / "stand_in.py"
        script.write_text(STAND_IN)
        check = ResumeCheck(tmp_path / behaviour, SUBJECTS[PRETRAINING], kills=1, seed=0)
        monkeypatch.setattr(
            ResumeCheck,
            "command",
            lambda self, name: [
                sys.executable, str(script), f"--workdir={self.folder / name}", str(self.total),
                behaviour,
            ],
        )  # fmt: skip
        check.kills = [Kill(kind, 4, 0.0)]
        return check

    return make


def test_a_run_that_dies_of_sigterm_in_its_steps_does_not_pass(stand_in):
    check = stand_in("dies", STEPPING)
    with pytest.raises(ResumeFailed, match="ended with -15, not with 75"):
        list(check.interrupt("a", signal.SIGTERM, 1.0))
    (killed,) = stand_in("saves", STEPPING).interrupt("b", signal.SIGTERM, 1.0)
    assert killed.code == EXIT_PREEMPTED
    # Before it listens, it may die.
    assert allowed_codes(Kill(STARTING, 1, 0.5), signal.SIGTERM) == (-15, 75)
    assert allowed_codes(Kill(WRITING, 1, 0.5), signal.SIGKILL) == (-9,)


def test_a_kill_is_added_until_one_met_a_half_written_checkpoint(stand_in):
    planned, added = stand_in("half", STEPPING).interrupt("a", signal.SIGKILL, 1.0)
    assert (planned.half_written, added.half_written) == (False, True)
    assert added.kill.kind == WRITING
    (only,) = stand_in("half ", WRITING).interrupt("b", signal.SIGKILL, 1.0)
    assert only.half_written


def test_without_a_half_written_checkpoint_nothing_is_shown(stand_in, monkeypatch, tmp_path):
    check = stand_in("whole", WRITING)
    monkeypatch.setattr(resume_check, "ResumeCheck", lambda *_: check)
    said: list[str] = []
    equal = verify_resume(
        check.folder, kills=1, seed=0, signals=(signal.SIGKILL,), root="a", say=said.append
    )
    assert not equal
    assert "NOT SHOWN: no SIGKILL met a half-written checkpoint" in said[-1]


@pytest.mark.long
@pytest.mark.parametrize("what", [PRETRAINING, RECOGNITION])
def test_one_kill_of_each_signal_changes_no_bit(what, repository, tmp_path, monkeypatch):
    # The launcher is started as a user would: without the four devices of the tests.
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    said: list[str] = []
    equal = verify_resume(
        tmp_path / "check",
        kills=1,
        seed=0,
        signals=(signal.SIGKILL, signal.SIGTERM),
        root=repository,
        what=what,
        say=said.append,
    )
    report = "\n".join(said)
    assert equal, report
    assert "SIGKILL  1: writing" in report
    assert "checkpoint half written, exit -9" in report
    assert "exit -9" in report
    assert "equal, bit for bit" in report
