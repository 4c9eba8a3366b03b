"""Traces of chosen steps, and the memory that a device tells of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.runtime import progress
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.profiling import Tracer, parse_steps


def test_range_of_steps() -> None:
    assert parse_steps("10-12") == (10, 12)
    assert parse_steps("3-3") == (3, 3)
    assert parse_steps(None) is None


@pytest.mark.parametrize("text", ["10", "12-10", "0-3", "a-b", "1-2-3"])
def test_what_is_no_range_is_named_with_the_remedy(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--profile_steps={text} .*FIRST-LAST"):
        parse_steps(text)


def test_trace_of_two_steps_is_written(tmp_path) -> None:
    step = jax.jit(lambda x: x * 2)
    x = jnp.ones(3)
    with Tracer((2, 3), tmp_path) as tracer:
        for number in range(1, 6):
            assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (number > 3)
            tracer.before(number)
            x = step(x)
            tracer.after(number, x)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_a_run_that_ends_within_the_range_leaves_its_trace(tmp_path) -> None:
    with Tracer((1, 9), tmp_path) as tracer:
        tracer.before(1)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_without_a_range_nothing_is_traced(tmp_path) -> None:
    with Tracer(None, tmp_path) as tracer:
        for number in range(3):
            tracer.before(number)
            tracer.after(number, None)
    assert not list(tmp_path.iterdir())


def test_memory_is_told_in_gib_where_the_device_tells(monkeypatch) -> None:
    class Device:
        def memory_stats(self) -> dict[str, int]:
            return {"bytes_in_use": 2**31, "peak_bytes_in_use": 3 * 2**30, "num_allocs": 5}

    monkeypatch.setattr(progress.jax, "local_devices", lambda: [Device()])
    assert progress.device_memory() == {
        "speed/device_memory_gib": 2.0,
        "speed/device_memory_peak_gib": 3.0,
    }
    monkeypatch.setattr(Device, "memory_stats", lambda self: None)
    assert progress.device_memory() == {}
