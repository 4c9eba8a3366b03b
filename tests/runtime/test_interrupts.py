"""Requests to stop: of one process, and of several that have to stop together."""

from __future__ import annotations

import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.interrupts import StopRequest
from rcmstr_jax.runtime.provenance import DataPosition


def test_second_signal_interrupts_at_once():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed()
        assert stop.signal == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_of_several_processes_jax_tells_the_others(monkeypatch):
    """SIGTERM belongs to JAX, SIGINT becomes one, and what is asked is counted from 1."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    asked: list[int] = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda n: asked.append(n) or n == 3
    )
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert (stop.signal, received) == ("SIGINT", [signal.SIGTERM])
            assert [stop.agreed() for _ in range(3)] == [False, False, True]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert asked == [1, 2, 3]
    finally:
        signal.signal(signal.SIGTERM, before)


class PreemptionService:
    """As JAX's: after a notice all stop at the count that follows the highest one so far."""

    def __init__(self) -> None:
        self.count, self.stop_at = 0, -1

    def reached(self, count: int) -> bool:
        self.count = count
        return count == self.stop_at

    def notice(self) -> None:
        self.stop_at = self.count + 1


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_asked_to_stop_inside_a_save_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_per_call: int
) -> None:
    service = PreemptionService()
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", service.reached)
    with monkeypatch.context() as several:
        several.setattr(jax, "process_count", lambda: 2)
        stop = StopRequest()
    step, stopped_at = 1000, 0
    with Checkpoints(tmp_path) as checkpoints:
        write = checkpoints._manager.save

        def save_and_ask(*args, **kwargs) -> bool:
            done = write(*args, **kwargs)
            service.notice()
            return done

        monkeypatch.setattr(checkpoints._manager, "save", save_and_ask)
        for call in range(1, 8):
            step += steps_per_call
            if call == 3:
                state = {"step": np.asarray(step)}
                # Several processes hand over before they go on.
                checkpoints.save(step, state, {}, DataPosition("words", 0, 8)).result()
            if stop.agreed():
                stopped_at = call
                break
        checkpoints.wait()
        assert checkpoints.steps() == [1000 + 3 * steps_per_call]
    assert stopped_at == 3  # at once: two calls were counted before the save
