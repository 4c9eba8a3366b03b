"""Requests to stop: of one process, and of several that have to stop together."""

from __future__ import annotations

import signal

import jax
import pytest
from jax.experimental import multihost_utils

from rcmstr_jax.runtime.interrupts import StopRequest


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
