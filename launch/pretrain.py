r"""Pretrains RCMSTR.

  python launch/pretrain.py --config=NAME[:variant] --workdir=DIR [--config.field=value ...]

NAME is one of configs/pretrain/ (mini, rcmstr_cnn, ...), or the path of a file of your own.

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

from absl import flags
from ml_collections import config_flags

from rcmstr_jax.interop.start import read_start
from rcmstr_jax.launch import distributed_flags
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import EXIT_PREEMPTED
from rcmstr_jax.runtime.processor import prepare_processor
from rcmstr_jax.runtime.watchdog import leave_at_once_on_failure
from rcmstr_jax.training.pretraining import pretrain
from rcmstr_jax.training.stored import RENAMED

CONFIG = config_flags.DEFINE_config_file("config", None, "NAME or FILE.py, either with :variant.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; created, or continued.")
flags.mark_flags_as_required(["config", "workdir"])
flags.adopt_module_key_flags(distributed_flags)


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    del argv
    with leave_at_once_on_failure(), command_line.one_line_errors():
        prepare_processor(CONFIG.value.model.dtype)
        watched = distributed_flags.join()
        outcome = pretrain(CONFIG.value, str(WORKDIR.value), read=read_start, **watched)
    return 0 if outcome.finished else EXIT_PREEMPTED


run = command_line.command(main, renamed=RENAMED, room=command_line.PRETRAIN)  # rcmstr-pretrain

if __name__ == "__main__":
    run()
