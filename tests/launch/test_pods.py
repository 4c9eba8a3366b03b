"""The launchers of many hosts: what they would start, what they start, and what they refuse."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Stands for gcloud, git, srun and scontrol: notes how it was called, and ends as it was told.
STAND_IN = r"""#!/bin/bash
{ printf '%q ' "$(basename "$0")" "$@"; echo; } >>"$STAND_IN_LOG"
case "$*" in *describe*) echo "${STAND_IN_STATE:-}" ;; esac
[ "$(basename "$0")" != srun ] || exit "${STAND_IN_CODE:-0}"
"""
FLAGS = ["--config=configs/pretrain/rcmstr_vit.py:small", "--workdir=/mnt/runs/vit"]
SLICE = {"ZONE": "europe-west4-b", "TYPE": "v5p-16"}


@pytest.fixture
def shell(tmp_path: Path, repository: Path):
    """Runs a script of launch/ with stand-ins; returns what ended and the lines they noted."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    for name in ("gcloud", "git", "srun", "scontrol"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)

    def run(script: str, *arguments: str, **more: str):
        log.write_text("")
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "STAND_IN_LOG": str(log), **more}
        done = subprocess.run(
            ["bash", str(repository / "launch" / script), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, log.read_text().splitlines()

    return run


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm.sbatch"])
def test_scripts_are_valid_shell(repository, script):
    subprocess.run(["bash", "-n", str(repository / "launch" / script)], check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create"], "tpu-vm create rcmstr --zone=europe-west4-b --accelerator-type=v5p-16"),
        (["push"], "git archive --format=tar.gz"),
        (["run", *FLAGS], "launch/pretrain.py"),
        (["logs"], "tail"),
        (["stop"], "kill"),
        (["fetch", "/mnt/runs/vit"], "tpu-vm scp --recurse rcmstr:/mnt/runs/vit ."),
        (["delete"], "tpu-vm delete rcmstr --zone=europe-west4-b --quiet"),
    ],
)
def test_a_dry_run_prints_what_is_run(shell, arguments, said):
    shown, called = shell("tpu_pod.sh", "--dry_run", *arguments, **SLICE)
    assert shown.returncode == 0 and not called and said in shown.stdout
    done, called = shell("tpu_pod.sh", *arguments, **SLICE)
    assert done.returncode == 0, done.stderr
    assert called == shown.stdout.splitlines()


def test_every_host_gets_code_and_command(shell):
    for action, count in (("push", 4), ("run", 1), ("stop", 1)):
        flags = FLAGS if action == "run" else []
        _, called = shell("tpu_pod.sh", action, *flags, **SLICE, NFS="10.0.0.2:/runs")
        remote = [line for line in called if " ssh " in line]
        assert len(remote) == count
        assert all("--worker=all" in line for line in remote)
        if action == "push":
            assert "mount\\ 10.0.0.2:/runs\\ /mnt/runs" in remote[-1]


def test_resume_makes_a_lost_slice_anew(shell):
    def actions(state: str) -> list[str]:
        done, called = shell("tpu_pod.sh", "resume", *FLAGS, **SLICE, STAND_IN_STATE=state)
        assert done.returncode == 0, done.stderr
        return [line.split()[4] if line.startswith("gcloud") else "archive" for line in called]

    filled = ["create", "archive", "scp", "ssh", "ssh", "ssh", "ssh"]
    assert actions("PREEMPTED") == ["describe", "delete", *filled]
    assert actions("") == ["describe", *filled]
    assert actions("READY") == ["describe", "ssh"]


def test_what_runs_on_a_host(shell, tmp_path):
    """The remote command itself, on a host that is a folder."""
    python = tmp_path / "rcmstr_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # Stays alive until it is stopped, as training does.
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\ntrap "exit 75" TERM\nsleep 30 & wait\n')
    python.chmod(0o755)

    def remote(action: str, *flags: str) -> str:
        _, called = shell("tpu_pod.sh", action, *flags, **SLICE)
        (command,) = (a for a in shlex.split(called[-1]) if a.startswith("--command="))
        return command.removeprefix("--command=")

    awkward = "--config.data.weights=(0.3, 0.7)"
    subprocess.run(["bash", "-c", remote("run", *FLAGS, awkward)], cwd=tmp_path, check=True)
    process = int((tmp_path / "run.pid").read_text())
    log = tmp_path / "run.log"
    wait_for(lambda: log.exists() and awkward in log.read_text())
    assert log.read_text().splitlines() == [
        "launch/pretrain.py", "--distributed=auto", *FLAGS, awkward,
    ]  # fmt: skip
    subprocess.run(["bash", "-c", remote("stop")], cwd=tmp_path, check=True)
    wait_for(lambda: not running(process))


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], SLICE, "no action; one of create, push"),
        (["start"], SLICE, "unknown action 'start'; one of create"),
        (["create"], {"TYPE": "v5p-16"}, "ZONE is not set; for example"),
        (["create"], {"ZONE": "europe-west4-b"}, "TYPE is not set; for example TYPE=v5p-16"),
        (["create"], {**SLICE, "SPOT": "yes"}, "SPOT=yes; set it to 1"),
        (["push"], {**SLICE, "NFS": "server"}, "NFS=server; write SERVER:/SHARE"),
        (["run", FLAGS[1]], SLICE, "run: no --config=FILE.py given"),
        (["run", FLAGS[0]], SLICE, "run: no --workdir=DIR given"),
        (["fetch"], SLICE, "fetch takes one folder of host 0; got 0"),
    ],
)
def test_mistakes_with_a_pod_are_answered(shell, arguments, environment, said):
    done, called = shell("tpu_pod.sh", *arguments, **environment)
    assert done.returncode == 2 and not called
    (line,) = done.stderr.splitlines()
    assert line.startswith("tpu_pod.sh: ") and said in line


def test_a_slurm_job_starts_one_command_and_requeues_itself(shell, repository):
    here = {"SLURM_SUBMIT_DIR": str(repository), "SLURM_JOB_ID": "17", "PYTHON": "python3"}
    shown, called = shell("slurm.sbatch", *FLAGS, **here, DRY_RUN="1")
    assert shown.returncode == 0 and not called
    start, _, again = shown.stdout.splitlines()[-3:]
    assert shlex.split(start)[-5:] == [
        "python3", "launch/pretrain.py", "--distributed=auto", *FLAGS,
    ]  # fmt: skip
    assert "#SBATCH --signal=TERM@120" in shown.stdout
    # Failed for a reason that stays; saved on request; lost a process, however that shows.
    for codes, restarts, expected in (
        ((0, 1, 2), "0", [start]),
        ((75,), "50", [start, again]),
        ((76, 134, 137, 143), "49", [start, again]),
        ((76, 134, 137, 143), "50", [start]),
    ):
        for code in codes:
            done, called = shell(
                "slurm.sbatch", *FLAGS, **here, STAND_IN_CODE=str(code),
                SLURM_RESTART_COUNT=restarts,
            )  # fmt: skip
            assert (done.returncode, called) == (code, expected), done.stdout
    done, called = shell("slurm.sbatch", *FLAGS, **here, STAND_IN_CODE="76", MAX_RESTARTS="0")
    assert called == [start] and "not started again" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (FLAGS[1:], {}, "no --config=FILE.py given"),
        (FLAGS[:1], {}, "no --workdir=DIR given"),
        (FLAGS, {"SLURM_SUBMIT_DIR": "/"}, "/ has no launch/pretrain.py; submit from the root"),
    ],
)
def test_mistakes_with_a_slurm_job_are_answered(shell, arguments, environment, said):
    done, called = shell("slurm.sbatch", *arguments, **environment)
    assert done.returncode == 2 and not called and said in done.stderr


class Local:
    """launch/local_processes.py with small scripts in the place of training."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.launcher, self.folder = repository / "launch" / "local_processes.py", folder

    def start(self, *flags: str, script: str = "") -> subprocess.Popen:
        file = self.folder / "script.py"
        common = "import os, signal, sys, time\nme = int(sys.argv[-1].split('=')[1])\n"
        file.write_text(common + script)
        last = ["--", str(file), "--workdir=w"] if script else []
        return subprocess.Popen(
            [sys.executable, str(self.launcher), *flags, *last],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags: str, script: str = "") -> tuple[int, str, str]:
        process = self.start(*flags, script=script)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def local(repository, tmp_path) -> Local:
    return Local(repository, tmp_path)


def test_local_processes_would_start(local):
    code, out, _ = local.run(
        "--processes=2", "--first_process=2", "--total_processes=4", "--coordinator=a:1234",
        "--cpu_devices=2", "--dry_run", script="pass",
    )  # fmt: skip
    assert code == 0
    lines = [shlex.split(line) for line in out.splitlines()]
    for number, line in zip((2, 3), lines, strict=True):
        assert line[0] == "env" and "JAX_PLATFORMS=cpu" in line
        assert any("--xla_force_host_platform_device_count=2" in part for part in line)
        assert line[-5:] == [
            "--workdir=w", "--distributed=flags", "--coordinator_address=a:1234",
            "--num_processes=4", f"--process_id={number}",
        ]  # fmt: skip
    _, out, _ = local.run("--processes=2", "--gpus=4", "--dry_run", script="pass")
    assert ["0,1,2,3" in line for line in out.splitlines()] == [True, False]
    assert "CUDA_VISIBLE_DEVICES=4,5,6,7" in out


def test_local_processes_are_shown_with_their_numbers(local):
    code, out, _ = local.run("--processes=2", script="print('I am', me)")
    assert code == 0
    assert sorted(out.splitlines()) == ["[0] I am 0", "[1] I am 1"]


def test_one_that_fails_ends_the_others(local):
    script = "if me == 1: sys.exit(3)\ntime.sleep(60)"
    start = time.monotonic()
    code, _, err = local.run("--processes=3", "--grace=0.2", script=script)
    assert code == 3 and time.monotonic() - start < 30
    assert "process 1 ended with 3" in err
    # One that does not listen to SIGTERM is killed; one that was killed has a code of its own.
    script = "signal.signal(15, signal.SIG_IGN)\nif me: os.kill(os.getpid(), 9)\ntime.sleep(60)"
    code, _, err = local.run("--processes=2", "--grace=0.5", script=script)
    assert code == 128 + signal.SIGKILL and "process 1 ended with -9" in err


def test_signals_reach_all_of_them(local):
    script = (
        # Not by print: the signal may come while one is still under way.
        "def stop(*_):\n  os.write(1, f'saved {me}\\n'.encode()); sys.exit(75)\n"
        "signal.signal(15, stop)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    process = local.start("--processes=2", script=script)
    ready = [process.stdout.readline() for _ in range(2)]
    assert all("ready" in line for line in ready)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert sorted(out.splitlines()) == ["[0] saved 0", "[1] saved 1"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--processes=2"], "nothing to start: write -- launch/pretrain.py"),
        (["--processes=2", "--total_processes=3", "--", "x"], "--coordinator=HOST:PORT"),
        (["--processes=2", "--first_process=1", "--", "x"], "--total_processes=2: give the number"),
        (["--processes=2", "--gpus=1", "--cpu_devices=1", "--", "x"], "give one of them"),
    ],
)
def test_mistakes_with_local_processes_are_answered(local, flags, said):
    code, _, err = local.run(*flags)
    assert code == 2
    (line,) = err.splitlines()
    assert said in line
