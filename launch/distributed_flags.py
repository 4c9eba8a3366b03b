"""Flags of the launchers that train, about hosts, traces, stalls and where metrics go."""

from __future__ import annotations

from typing import Any

from absl import flags

from rcmstr_jax.runtime.distributed import MODES, connect
from rcmstr_jax.runtime.profiling import parse_steps

DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "none", MODES, "How several processes find each other."
)
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run, over all hosts.")
PROCESS = flags.DEFINE_integer("process_id", None, "This process, 0 to num_processes - 1.")
PROFILE = flags.DEFINE_string(
    "profile_steps", None, "FIRST-LAST: trace these steps into WORKDIR/profile."
)
STALL = flags.DEFINE_float(
    "stall_timeout",
    600.0,
    "Seconds without progress until the log says which host is stuck; 0: never.",
    lower_bound=0.0,
)
WANDB = flags.DEFINE_string(
    "wandb", None, "Project of Weights & Biases that takes the metrics too (extra wandb)."
)


def join() -> dict[str, Any]:
    """Joins the processes of the run, before anything else uses JAX.

    Returns:
      `profile_steps`, `stall_timeout` and `wandb`, as `training.loop.open_session` takes them.

    Raises:
      ConfigError: on flags that do not fit together, or if the others cannot be found.
    """
    watched = {
        "profile_steps": parse_steps(PROFILE.value),
        "stall_timeout": STALL.value,
        "wandb": WANDB.value,
    }
    connect(DISTRIBUTED.value, COORDINATOR.value, PROCESSES.value, PROCESS.value)
    return watched
