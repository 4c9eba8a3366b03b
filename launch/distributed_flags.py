"""Flags of the launchers that train, about hosts, traces and stalls."""

from __future__ import annotations

import dataclasses

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


@dataclasses.dataclass(frozen=True)
class Watched:
    """What the training loop is told.

    Attributes:
      profile_steps: first and last step of a trace; None for none.
      stall_timeout: seconds without progress until that is reported; 0 for never.
    """

    profile_steps: tuple[int, int] | None
    stall_timeout: float


def join() -> Watched:
    """Joins the processes of the run, before anything else uses JAX.

    Raises:
      ConfigError: on flags that do not fit together, or if the others cannot be found.
    """
    watched = Watched(parse_steps(PROFILE.value), float(STALL.value or 0.0))
    connect(DISTRIBUTED.value, COORDINATOR.value, PROCESSES.value, PROCESS.value)
    return watched
