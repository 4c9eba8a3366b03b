"""How processes find each other: flags that cannot work, and what SLURM says of its GPUs."""

from __future__ import annotations

import jax
import pytest

from rcmstr_jax.runtime.distributed import connect
from rcmstr_jax.runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("none", "a:1", None, None), "--coordinator_address=a:1 .*add --distributed=flags"),
        (("flags", "a:1", None, 0), "give --num_processes too"),
        (("flags", "a:1", 2, 2), "--process_id=2 of --num_processes=2: use 0 to 1"),
        (("flags", "a", 2, 0), "--coordinator_address=a names no port: write HOST:PORT"),
    ],
)
def test_flags_that_cannot_join_processes(arguments, answer):
    with pytest.raises(ConfigError, match=answer):
        connect(*arguments)


def test_one_process_needs_no_flags():
    connect("none")


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "4"}, [0, 1, 2, 3]),
        ({"SLURM_TASKS_PER_NODE": "1", "CUDA_VISIBLE_DEVICES": "2,5"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_GPUS_ON_NODE": "4"}, None),
        ({}, None),
    ],
)
def test_only_task_of_a_slurm_node_gets_all_its_gpus(monkeypatch, environment, devices):
    given = {}
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: given.update(options))
    connect("auto")
    assert given["local_device_ids"] == devices
    assert given["cluster_detection_method"] is None


def test_processes_that_cannot_be_found_are_a_mistake_in_the_flags(monkeypatch):
    def alone(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(jax.distributed, "initialize", alone)
    with pytest.raises(ConfigError, match="--distributed=auto: .*use --distributed=flags"):
        connect("auto")
