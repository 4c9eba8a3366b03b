r"""Shows that an interrupted run equals an uninterrupted one, bit for bit.

  python launch/verify_resume.py --kills=20
  python launch/verify_resume.py --kills=20 --what=recognition

A small but complete RCMSTR run (CNN, masked images, queues, float32, CPU), or the fine-tuning of a
small recogniser (with validation and an average of the weights), is killed at random
moments, checkpoint writing among them, and started again each time: once with SIGKILL, once with
SIGTERM. Its state digest and its metrics must equal those of the run that was left alone. Exit code
1 on any difference, where a run in its steps does not save on SIGTERM, and where no SIGKILL met a
half-written checkpoint. Seven minutes on two CPU cores that others used too.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parent.parent

from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.verification.resume import PRETRAINING, SUBJECTS, verify_resume

WHAT = flags.DEFINE_enum("what", PRETRAINING, list(SUBJECTS), "What is trained.")
KILLS = flags.DEFINE_integer("kills", 20, "Kills per signal.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of their moments.")
WORKDIR = flags.DEFINE_string("workdir", None, "Empty folder to keep the runs in; else removed.")


def main(argv: Sequence[str]) -> int:
    """Prints the report; returns the exit code."""
    del argv
    with command_line.one_line_errors(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(WORKDIR.value or temporary).absolute()
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"--workdir={folder} is not empty: give a new folder")
        equal = verify_resume(
            folder,
            kills=KILLS.value,
            seed=SEED.value,
            root=ROOT,
            what=WHAT.value,
            say=functools.partial(print, flush=True),
        )
    return 0 if equal else 1


if __name__ == "__main__":
    command_line.command(main)()
