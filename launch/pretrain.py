r"""Pretrains RCMSTR.

  python launch/pretrain.py --config=configs/pretrain/FILE.py[:variant] --workdir=DIR \
    [--config.field=value ...]

The same command on the same workdir continues after its newest checkpoint.

On several hosts start it once on each, with a workdir that all of them see, and either
--distributed=auto (SLURM, Open MPI, Cloud TPU, Kubernetes) or
--distributed=flags --coordinator_address=HOST:PORT --num_processes=N --process_id=I.

Exit codes: 0 finished; 1 failed; 2 a mistake in the flags, the config or the data, found before any
long work; 75 stopped by SIGINT (Ctrl-C) or SIGTERM after saving, all hosts together; 76 another
process of the run is gone. After 75 and 76 run the same command again, on all hosts.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from rcmstr_jax.runtime.command_line import one_line_errors, parse_flags
from rcmstr_jax.runtime.distributed import MODES, connect
from rcmstr_jax.runtime.interrupts import EXIT_PREEMPTED
from rcmstr_jax.runtime.profiling import parse_steps
from rcmstr_jax.runtime.skipped import TrainingDiverged
from rcmstr_jax.runtime.watchdog import leave_at_once_on_failure
from rcmstr_jax.training.pretraining import pretrain

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:variant.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; created, or continued.")
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
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    del argv
    logging.set_verbosity(logging.WARNING)  # of the libraries below; the package logs by itself
    with leave_at_once_on_failure(), one_line_errors(TrainingDiverged):
        profile = parse_steps(PROFILE.value)
        connect(DISTRIBUTED.value, COORDINATOR.value, PROCESSES.value, PROCESS.value)
        outcome = pretrain(
            CONFIG.value,
            str(WORKDIR.value),
            profile_steps=profile,
            stall_timeout=STALL.value,
        )
    return 0 if outcome.finished else EXIT_PREEMPTED


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
