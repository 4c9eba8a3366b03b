"""rcmstr-serve: its flags, and where it listens."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from absl import flags

from rcmstr_jax.runtime.errors import ConfigError


@pytest.fixture(scope="module")
def launcher() -> Iterator[Any]:
    """launch/serve.py, its flags removed again afterwards."""
    before = set(flags.FLAGS)
    yield importlib.import_module("rcmstr_jax.launch.serve")
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_batch_sizes_are_sorted_numbers(launcher: Any) -> None:
    assert launcher.batch_sizes(["8", "1", "8"]) == (1, 8)
    for wrong in ([], ["0"], ["1", "x"], ["-1"], ["100000"]):
        with pytest.raises(ConfigError, match=r"--batch_sizes=.*as in 1,8,32"):
            launcher.batch_sizes(wrong)


def test_it_listens_to_this_machine_alone_unless_told(launcher: Any) -> None:
    assert flags.FLAGS["host"].default == "127.0.0.1"
    with launcher.listen("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ConfigError, match=f"--port={port} cannot be listened on.*another port"):
            launcher.listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="--host=no.such.host.invalid --port=80 cannot be"):
        launcher.listen("no.such.host.invalid", 80)
    with pytest.raises(flags.IllegalFlagValueError, match="65535"):
        flags.FLAGS["port"].parse("70000")
