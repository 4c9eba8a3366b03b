"""Who is stuck and who is gone, told from what the processes say; by a clock that tests turn."""

from __future__ import annotations

import json
import logging
import threading

import jax
import pytest

from rcmstr_jax.runtime.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_LOST, ConfigError
from rcmstr_jax.runtime.watchdog import DATA, STEP, Watchdog, leave_at_once_on_failure

Ended = list[tuple[str, int]]


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ended() -> Ended:
    """Messages and codes with which watchdogs ended their processes."""
    return []


@pytest.fixture
def watch(tmp_path, clock, ended):
    """Makes the watchdog of one of three processes; its thread does not run."""

    def make(process: int, processes: int = 3, stall: float = 60.0) -> Watchdog:
        return Watchdog(
            tmp_path, process=process, processes=processes, stall_seconds=stall,
            lost_seconds=40.0, clock=clock, end=lambda *told: ended.append(told),
        )  # fmt: skip

    return make


def let_pass(clock: Clock, seconds: float, *watchdogs: Watchdog) -> None:
    for _ in range(round(seconds / 2)):
        clock.now += 2
        for watchdog in watchdogs:
            watchdog.look()


def test_silence_ends_the_others_and_names_host_step_and_remedy(watch, clock, ended):
    first, second, third = (watch(i) for i in range(3))
    second.note(7, STEP)
    let_pass(clock, 10, first, second, third)
    let_pass(clock, 38, first, third)
    assert not ended
    let_pass(clock, 6, first)
    ((message, code),) = ended
    assert code == EXIT_LOST
    assert "process 1 on" in message
    assert "--workdir" not in message
    assert "gave no sign of life for 42 s; its last step was 7" in message
    assert "Start all processes again with the same command" in message


def test_failure_of_another_process_is_passed_on(watch, clock, ended, monkeypatch):
    first, second, third = (watch(i) for i in range(3))
    let_pass(clock, 2, first, second, third)
    monkeypatch.setattr(
        "rcmstr_jax.runtime.watchdog.time.sleep",
        lambda seconds: let_pass(clock, seconds, first, second, *([] if ended else [third])),
    )
    error = OSError("no space left")
    second.note_failure(type(error), error, None)
    assert len(ended) == 1  # the third
    # Process 0 keeps JAX's service up until all others have left.
    let_pass(clock, 6, first, second)
    let_pass(clock, 8, first)
    assert len(ended) == 1
    let_pass(clock, 2, first)
    # Who is told first stands for all: it would fail again, and is not to be started by itself.
    assert [code for _, code in ended] == [EXIT_FAILED, EXIT_FAILED]
    for message, _ in ended:
        assert "process 1 on" in message
        assert "ended with OSError: no space left; its last step was 0" in message
        assert "Remove the cause, then start all processes again" in message
    told = clock.now
    second.note_failure(type(error), error, None)
    assert clock.now == told  # is said, and waited for, once


def test_a_failed_process_ends_although_the_others_do_not_answer(watch, clock, ended, monkeypatch):
    first, second = (watch(i, processes=2) for i in range(2))
    let_pass(clock, 2, first, second)
    monkeypatch.setattr(
        "rcmstr_jax.runtime.watchdog.time.sleep", lambda seconds: let_pass(clock, seconds, second)
    )
    error = ConfigError("config.batch_size=3")
    second.note_failure(type(error), error, None)
    let_pass(clock, 10, second)
    assert not ended
    let_pass(clock, 2, second)
    assert ended == [("ConfigError: config.batch_size=3", EXIT_FAILED)]


def test_threads_agree_that_the_run_failed(tmp_path):
    """As the loop uses them, with real clocks: one fails, and the other hears of it at once."""
    codes: list[int] = []
    told = threading.Event()

    def end(message: str, code: int) -> None:
        codes.append(code)
        told.set()

    first, second = (
        Watchdog(
            tmp_path, process=i, processes=2, stall_seconds=0, lost_seconds=5, interval=0.02,
            end=end,
        )
        for i in range(2)
    )  # fmt: skip
    with first:
        with pytest.raises(ValueError, match="batch"), second:
            raise ValueError("batch")
        assert told.wait(5)
    assert set(codes) == {EXIT_FAILED}


def test_a_process_that_is_done_is_not_missed(watch, clock, ended):
    first, second = (watch(i, processes=2) for i in range(2))
    let_pass(clock, 2, first, second)
    second.note_failure(None, None, None)
    let_pass(clock, 200, first)
    assert not ended


def test_what_an_earlier_run_left_is_no_sign(watch, clock, ended, tmp_path):
    old = {"host": "h", "step": 3, "doing": "failed", "error": "OSError: old", "beat": 9}
    (tmp_path / "1.json").write_text(json.dumps(old))
    first = watch(0, processes=2)
    let_pass(clock, 38, first)
    assert not ended
    let_pass(clock, 4, first)
    ((message, code),) = ended
    assert code == EXIT_LOST
    assert "process 1 on an unknown host gave no sign of life for 42 s, or --workdir=" in message
    assert "is not on a disk that all of them see" in message


def test_stuck_is_who_has_not_come_to_the_step(watch, clock, caplog):
    first, second, third = (watch(i) for i in range(3))
    for watchdog, doing in ((first, STEP), (second, DATA), (third, STEP)):
        watchdog.note(12, doing)
    with caplog.at_level(logging.ERROR):
        let_pass(clock, 58, first, second, third)
        assert not caplog.records
        let_pass(clock, 4, first, second, third)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3  # each process says it in its own log
    assert "stuck is process 1 (process 0 on" in messages[0]
    assert "step 12, waiting for data for" in messages[0]


def test_stuck_with_all_in_the_step_is_the_step_itself(watch, clock, caplog):
    first, second = (watch(i, processes=2) for i in range(2))
    for watchdog in (first, second):
        watchdog.note(12, STEP)
    with caplog.at_level(logging.ERROR):
        let_pass(clock, 62, first, second)
    assert "stuck is the step itself" in caplog.records[0].getMessage()


def test_progress_is_never_reported_and_zero_switches_off(watch, clock, caplog):
    moving, off = watch(0, processes=1), watch(0, processes=1, stall=0)
    with caplog.at_level(logging.ERROR):
        for step in range(10):
            moving.note(step, STEP)
            let_pass(clock, 50, moving, off)
    assert not caplog.records


def test_a_failure_waits_for_the_one_that_caused_it(watch, clock, ended, monkeypatch):
    """The runtime knows that some connection is closed; only the watchdog knows whose it was."""
    first, second = (watch(i, processes=2) for i in range(2))
    let_pass(clock, 4, first, second)
    monkeypatch.setattr(
        "rcmstr_jax.runtime.watchdog.time.sleep", lambda seconds: let_pass(clock, seconds, first)
    )
    error = RuntimeError("Connection closed by peer")
    first.note_failure(type(error), error, None)
    message, code = ended[0]
    assert code == EXIT_LOST
    assert "process 1 on" in message
    assert "gave no sign of life for 1" in message  # sooner than after 40 s


def test_a_mistake_that_all_find_is_no_echo(watch, clock, ended, monkeypatch):
    error = ConfigError("config.batch_size=3")
    first, second = (watch(i, processes=2) for i in range(2))
    let_pass(clock, 2, first, second)

    def sleep(seconds: float) -> None:
        let_pass(clock, seconds, first, *([] if second._doing == "failed" else [second]))
        second._doing = "failed"  # and silent from now on

    monkeypatch.setattr("rcmstr_jax.runtime.watchdog.time.sleep", sleep)
    before = clock.now
    first.note_failure(type(error), error, None)
    assert clock.now - before <= 12
    monkeypatch.setattr("rcmstr_jax.runtime.watchdog.time.sleep", pytest.fail)
    watch(0, processes=1).note_failure(type(error), error, None)


def test_failed_process_of_several_leaves_without_a_farewell(monkeypatch, capsys):
    codes: list[int] = []
    monkeypatch.setattr("rcmstr_jax.runtime.watchdog.os._exit", codes.append)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with leave_at_once_on_failure():
        raise SystemExit(EXIT_CONFIG)
    with leave_at_once_on_failure():
        raise OSError("gone")
    assert codes == [EXIT_CONFIG, EXIT_FAILED]
    assert "OSError: gone" in capsys.readouterr().err
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    with pytest.raises(OSError, match="gone"), leave_at_once_on_failure():
        raise OSError("gone")


def test_thread_gives_signs_and_the_end(watch, tmp_path):
    watchdog = watch(0, processes=2)
    watchdog._interval = 0.01
    with watchdog:
        watchdog.note(4, DATA)
        while not (tmp_path / "0.json").exists():
            pass
    said = json.loads((tmp_path / "0.json").read_text())
    assert (said["step"], said["doing"], said["error"]) == (4, "ended", "")
