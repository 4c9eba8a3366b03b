r"""Starts the processes of a run on this machine, and ends them together.

  python launch/local_processes.py --processes=2 --cpu_devices=2 -- \
    launch/pretrain.py --config=configs/pretrain/mini.py --workdir=runs/mini

What stands after `--` is started `--processes` times with --distributed=flags and what belongs to
it. Their output appears line by line, with the number of the process in front. SIGINT and SIGTERM
are passed on: all of them save and leave. When one ends in any other way than well, the others get
`--grace` seconds to notice, then SIGTERM, and as long again later SIGKILL.

Several machines: give each its `--first_process`, and all the same `--total_processes` and
`--coordinator=HOST:PORT`, where HOST is the machine of process 0.

`--dry_run` prints the commands. Exit code: 0 if all end with 0, else that of the first which did
not (128 + number for a signal); 2 for a mistake in the flags.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

from absl import app, flags

from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import ConfigError

PROCESSES = flags.DEFINE_integer("processes", None, "Processes on this machine.", 1)
TOTAL = flags.DEFINE_integer("total_processes", None, "On all machines (default: --processes).", 1)
FIRST = flags.DEFINE_integer("first_process", 0, "Number of the first process here.", 0)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT; a free port here by default.")
CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "CPU devices of each process (0: as is).", 0)
GPUS = flags.DEFINE_integer("gpus", 0, "GPUs of each process, in order (0: all to all).", 0)
GRACE = flags.DEFINE_float("grace", 60.0, "Seconds for the others when one has failed.", 0.0)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be started.")
flags.mark_flags_as_required(["processes"])


def environment(place: int) -> dict[str, str]:
    """What process number `place` of this machine has in addition to our environment."""
    if CPU_DEVICES.value:
        count = f"--xla_force_host_platform_device_count={CPU_DEVICES.value}"
        before = os.environ.get("XLA_FLAGS", "")
        return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{before} {count}".strip()}
    if GPUS.value:
        mine = range(place * GPUS.value, (place + 1) * GPUS.value)
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, mine))}
    return {}


def commands(script: Sequence[str]) -> list[tuple[dict[str, str], list[str]]]:
    """Additional environment and command line of every process.

    Raises:
      ConfigError: on flags that do not fit together.
    """
    count, first = PROCESSES.value or 0, FIRST.value or 0  # both are always set
    total = TOTAL.value or count
    for good, message in (
        (script, "nothing to start: write -- launch/pretrain.py FLAGS after the flags"),
        (
            not (CPU_DEVICES.value and GPUS.value),
            f"--cpu_devices={CPU_DEVICES.value} and --gpus={GPUS.value}: give one of them",
        ),
        (
            first + count <= total,
            f"--first_process={first} and --processes={count} go beyond "
            f"--total_processes={total}: give the number over all machines",
        ),
        (
            total <= count or COORDINATOR.value,
            f"--total_processes={total} is more than --processes={count} here: give all machines "
            "the same --coordinator=HOST:PORT",
        ),
    ):
        if not good:
            raise ConfigError(message)
    address = COORDINATOR.value
    if not address:
        with socket.create_server(("localhost", 0)) as probe:  # a port that nothing listens on
            address = f"localhost:{probe.getsockname()[1]}"
    joined = f"--distributed=flags --coordinator_address={address} --num_processes={total}"
    started = [sys.executable, *script, *joined.split()]
    return [
        (environment(place), [*started, f"--process_id={first + place}"]) for place in range(count)
    ]


def show(number: int, stream: IO[str]) -> None:
    """Prints a process's lines with its number in front."""
    for line in stream:
        print(f"[{number}] {line}", end="", flush=True)


def run_together(
    started: Sequence[tuple[dict[str, str], list[str]]], first: int, grace: float
) -> int:
    """Starts the processes and waits for all of them; returns the exit code."""
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C reaches them through us, once.
            start_new_session=True,
        )
        for more, command in started
    ]

    def send(number: int) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    # For processes that outlive a failed one. A second signal would keep them from saving.
    measures = [signal.SIGTERM, signal.SIGKILL]

    def forward(number: int, frame: FrameType | None) -> None:
        measures[:] = [signal.SIGKILL]
        send(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    readers = [
        threading.Thread(target=show, args=(first + place, process.stdout), daemon=True)
        for place, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()

    failed, deadline = 0, float("inf")
    while None in (codes := [process.poll() for process in processes]):
        if not failed and any(codes):
            place, failed = next((place, code) for place, code in enumerate(codes) if code)
            deadline = time.monotonic() + grace
            print(f"process {first + place} ended with {failed}", file=sys.stderr, flush=True)
        if time.monotonic() > deadline and measures:
            send(measures.pop(0))
            deadline += grace
        time.sleep(0.05)
    for reader in readers:
        reader.join()
    code = failed or next(filter(None, codes), 0)
    return code if code >= 0 else 128 - code


def main(argv: Sequence[str]) -> int:
    """Starts what stands after `--`; returns the exit code."""
    with command_line.one_line_errors():
        started = commands(argv[1:])
    if DRY_RUN.value:
        for more, command in started:
            print(shlex.join(["env", *(f"{k}={v}" for k, v in more.items()), *command]))
        return 0
    return run_together(started, FIRST.value or 0, GRACE.value or 0.0)


if __name__ == "__main__":
    app.run(main)
