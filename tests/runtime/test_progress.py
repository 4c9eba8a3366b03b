"""Messages, speed and gauges of a running job; metric files across restarts."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import types
from concurrent.futures import Future

import numpy as np
import pytest

from rcmstr_jax.runtime import progress as progress_module
from rcmstr_jax.runtime.curves import read_metrics
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.progress import Forecast, Progress, gauges_line, run_log
from rcmstr_jax.runtime.writers import JsonLinesWriter, MetricWriter
from rcmstr_jax.training.loop import open_session


class Clock:
    """A clock that only moves when told."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock.monotonic)
    return clock


def start_step(progress, result=None):
    """One more step, finished at once unless its result says otherwise."""
    progress.tick(progress._step + 1, result)
    if result is None:
        progress._finished.result(10)


class Running:
    """What a step returns while devices are at work on it."""

    def __init__(self):
        self.release = threading.Event()

    def block_until_ready(self):
        assert self.release.wait(10)


def test_speed_waiting_and_time_left(clock):
    progress = Progress(
        total_steps=110, start_step=10, batch_size=32, devices=4, stream=io.StringIO()
    )
    for _ in range(5):
        with progress.waiting():
            clock.now += 0.5
        clock.now += 1.5
        start_step(progress)
    speed, line = progress.report({"loss": 2.0})
    assert speed["speed/words_per_second"] == pytest.approx(16.0)
    assert speed["speed/words_per_second_and_device"] == pytest.approx(4.0)
    assert speed["speed/share_waiting_for_data"] == pytest.approx(0.25)
    # 95 steps of two seconds are left.
    assert line == (
        "step 15/110  16 words/s (4 per device)  25% waiting for data  03:10 left  loss 2"
    )


def test_cost_is_predicted_once_from_the_calls_after_the_compiled_one(clock):
    forecast = Forecast(total_steps=200_000, batch_size=256)
    calls = [Future() for _ in range(9)]
    for number, call in enumerate(calls):
        clock.now += 0.5 if number else 40.0
        if number != 5:  # still at work
            call.set_result(clock.now)
    said = [forecast.tick(10 * number, call) for number, call in enumerate(calls[:7], 1)]
    assert said == [None] * 7
    calls[5].set_result(calls[0].result() + 2.5)
    # 50 steps in 2.5 s; 199,920 of them take 9,996 s.
    assert forecast.tick(80, calls[7]) == (
        "predicted cost: 51,179,520 words in 199,920 steps to go at 5,120 words/s, measured over "
        "50 steps: 2:46:36 h:m:s"
    )
    assert forecast.tick(90, calls[8]) is None


@pytest.mark.parametrize(("left", "counted"), [(0.0, 0.5), (0.3, 0.2), (0.6, 0.0)])
def test_a_wait_counts_from_when_the_devices_had_nothing_left_to_do(clock, left, counted):
    progress = Progress(total_steps=9, start_step=0, batch_size=1, devices=1, stream=io.StringIO())
    result = Running()
    progress.tick(1, result)

    def pass_time(seconds, left):
        clock.now += min(seconds, left)
        if seconds >= left:
            result.release.set()
            progress._finished.result(10)
        clock.now += max(seconds - left, 0.0)

    pass_time(0.0, left)
    with progress.waiting():
        pass_time(0.5, left)
    result.release.set()
    clock.now += 0.5
    speed, _ = progress.report({})
    assert speed["speed/share_waiting_for_data"] == pytest.approx(counted / 1.0)
    progress.close()


def test_clock_starts_anew_after_compilation(clock):
    progress = Progress(total_steps=9, start_step=0, batch_size=1, devices=1, stream=io.StringIO())
    clock.now += 1000.0
    start_step(progress)
    progress.restart_clock()
    speed, line = progress.report({})
    assert "speed/words_per_second" not in speed
    assert line.startswith("step 1/9")
    clock.now += 2.0
    start_step(progress)
    assert progress.report({})[0]["speed/words_per_second"] == pytest.approx(0.5)


def test_bar_appears_on_a_terminal_alone():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        progress = Progress(total_steps=3, start_step=1, batch_size=8, devices=1, stream=stream)
        progress.tick(2, {})
        progress.report({"loss": 1.0})
        progress.close()
        assert ("words/s" in stream.getvalue()) == shown


def test_gauges_are_grouped_in_a_fixed_order():
    metrics = {"relation_entropy/word": 0.5, "accuracy/word": 0.25, "loss": 1.5, "loss/mim": 1.0}
    assert gauges_line(metrics) == "loss 1.5  accuracy word 0.25  relation_entropy word 0.5"


def test_messages_reach_stream_and_file_and_handlers_are_removed(tmp_path):
    stream = io.StringIO()
    logger = logging.getLogger("rcmstr_jax")
    before = list(logger.handlers), logger.propagate
    with run_log(tmp_path, stream):
        logging.getLogger("rcmstr_jax.somewhere").info("hello")
    assert (list(logger.handlers), logger.propagate) == before
    assert "hello" in stream.getvalue()
    assert (tmp_path / "log.txt").read_text().rstrip().endswith("hello")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_step_stands_once_after_a_restart(tmp_path):
    first = JsonLinesWriter(tmp_path)
    for step in range(1, 6):
        first.write_scalars(step, {"loss": np.float32(step), "speed/words_per_second": 7})
    first.close()
    # A kill may leave half a line.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    second = JsonLinesWriter(tmp_path, last_step=3)
    for step in range(4, 7):
        second.write_scalars(step, {"loss": step, "speed/words_per_second": 9})
    second.close()
    metrics = lines(tmp_path / "metrics.jsonl")
    assert metrics == [{"step": step, "loss": float(step)} for step in range(1, 7)]
    speed = lines(tmp_path / "speed.jsonl")
    assert [line["speed/words_per_second"] for line in speed] == [7, 7, 7, 9, 9, 9]


def test_lines_are_on_disk_before_the_writer_is_closed(tmp_path):
    writer = JsonLinesWriter(tmp_path)
    writer.write_scalars(1, {"loss": 1.0})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    writer.close()


def test_tensorboard_takes_scalars_and_the_config(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(1, {"loss": np.float32(1.0)})
    writer.write_hparams({"seed": 1})
    writer.close()
    (events,) = tmp_path.glob("events.*")
    content = events.read_bytes()
    for name in (b"loss", b"config", b"seed"):
        assert name in content


class StubRun:
    """What `wandb.init` gives, as far as it is used."""

    def __init__(self, told, **begun):
        self.begun, self.told, self.config = begun, told, self

    def define_metric(self, name, step_metric):
        self.told.append(("axis", name, step_metric))

    def log(self, numbers):
        self.told.append(numbers)

    def update(self, fields, allow_val_change):
        self.told.append((fields, allow_val_change))

    def finish(self):
        self.told.append("finished")


def test_weights_and_biases_takes_the_same_and_goes_on_with_its_run(tmp_path, monkeypatch):
    begun, told = [], []

    def init(**options):
        begun.append(options)
        return StubRun(told, **options)

    stub = types.SimpleNamespace(init=init, Error=KeyError)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    for last in (0, 1):
        writer = MetricWriter(tmp_path, last, wandb="words")
        if not last:
            writer.write_hparams({"seed": 1})
        writer.write_scalars(last + 1, {"loss": np.float32(1.5)})
        writer.close()
    assert told == [
        ("axis", "*", "step"), ({"seed": 1}, True), {"step": 1, "loss": 1.5}, "finished",
        ("axis", "*", "step"), {"step": 2, "loss": 1.5}, "finished",
    ]  # fmt: skip
    assert begun[0] == begun[1] and begun[0]["resume"] == "allow"
    assert (begun[0]["project"], begun[0]["dir"]) == ("words", str(tmp_path))
    assert len(read_metrics(tmp_path / "metrics.jsonl")["loss"][0]) == 2
    other = MetricWriter(tmp_path / "other", 0, writes=False, wandb="words")
    other.close()
    assert len(begun) == 2  # hosts that write no logs begin no run

    stub.init = lambda **_: {}["account"]
    with pytest.raises(ConfigError, match=r"--wandb=words: .*account.*WANDB_MODE=offline"):
        MetricWriter(tmp_path, 0, wandb="words")
    for missing in (None, types.ModuleType("wandb")):  # not installed; a folder of that name
        monkeypatch.setitem(sys.modules, "wandb", missing)
        with pytest.raises(ConfigError, match=r"--wandb=words needs.*rcmstr-jax\[wandb\]"):
            with open_session(tmp_path / "new", wandb="words"):
                pass
    assert not (tmp_path / "new").exists()


def test_hosts_that_do_not_write_leave_no_file(tmp_path):
    writer = MetricWriter(tmp_path, 0, writes=False)
    writer.write_scalars(1, {"loss": 1.0})
    writer.close()
    assert not list(tmp_path.iterdir())
