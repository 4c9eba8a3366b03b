"""Several hosts: how the processes of a run find each other, and agree."""

from __future__ import annotations

import os
import re

import jax
import numpy as np
from jax.experimental import multihost_utils

from rcmstr_jax.runtime.errors import ConfigError

MODES = ("none", "flags", "auto")
# JAX ends a process whose peers are gone after this time, without naming them; the watchdog, which
# names them, is given less.
_HEARTBEAT_SECONDS, _SHUTDOWN_SECONDS = 50, 30


def connect(
    mode: str,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; call it before anything else that uses JAX.

    Args:
      mode: "none" for a single process; "flags" takes the other three; "auto" takes them from
        SLURM, Open MPI, Cloud TPU metadata or Kubernetes, as `jax.distributed` finds them.
      coordinator_address: HOST:PORT of process 0.
      num_processes: of all hosts.
      process_id: of this process, 0 to num_processes - 1.

    Raises:
      ConfigError: if flags are missing or too many, or if the others cannot be found.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if mode == "none" and any(value is not None for value in given.values()):
        named = " ".join(f"{k}={v}" for k, v in given.items() if v is not None)
        raise ConfigError(f"{named} without --distributed: add --distributed=flags")
    if mode == "none":
        return
    if mode == "flags":
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise ConfigError(
                f"--distributed=flags needs {', '.join(given)}: give {' and '.join(missing)} too"
            )
        assert num_processes is not None and process_id is not None
        if not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--process_id={process_id} of --num_processes={num_processes}: "
                f"use 0 to {num_processes - 1}"
            )
        if ":" not in str(coordinator_address):
            raise ConfigError(
                f"--coordinator_address={coordinator_address} names no port: write HOST:PORT"
            )
    # It takes over SIGTERM; interrupts.py asks it when to stop.
    jax.config.update("jax_enable_preemption_service", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            local_device_ids=_slurm_devices() if mode == "auto" else None,
            cluster_detection_method="deactivate" if mode == "flags" else None,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed={mode}: the processes cannot be joined ({str(error).splitlines()[0]}): "
            + (
                "see that all were started, and that process 0 can be reached"
                if mode == "flags"
                else "outside SLURM, Open MPI, Cloud TPU and Kubernetes use --distributed=flags"
            )
        ) from error


def _slurm_devices() -> list[int] | None:
    """All GPUs of a node for its only task, where JAX would take the first; else None."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", os.environ.get("SLURM_TASKS_PER_NODE", ""))
    if not re.fullmatch(r"1(\(x\d+\))?", tasks):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = len(visible.split(",")) if visible else int(os.environ.get("SLURM_GPUS_ON_NODE", 0))
    return list(range(count)) or None


def flags_of_hosts(flag: bool) -> np.ndarray:
    """This flag of every process, on every process; all have to call it at the same place."""
    if jax.process_count() == 1:
        return np.asarray([flag])
    return np.asarray(multihost_utils.process_allgather(np.asarray(flag))).reshape(-1)
