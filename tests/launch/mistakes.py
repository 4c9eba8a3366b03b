r"""Runs wrong command lines, and lists what each is answered: docs/mistakes.md.

  python -m tests.launch.mistakes            # prints the page
  python -m tests.launch.mistakes --write    # and writes docs/mistakes.md; a test compares the two

Every line is run by itself, as a user would, in a folder that holds `configs`, an LMDB `data/words`
with the benchmark `data/benchmark/SVT`, images `data/photos`, an empty `data/nothing` and a file
`notes.txt`; on eight CPU devices. A line that is not answered by exactly one line and exit code 2
is an error of ours (exit code 1).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "mistakes.md"

PRETRAIN = "pretrain.py --config=mini --workdir=runs/new"
EVALUATE = "evaluate.py --config=frozen_ctc --workdir=runs/new"
SCORED = (
    f"{EVALUATE} --pretrained=random --config.train.source=lmdb:data/words "
    "--config.benchmarks=data/benchmark"
)
SCORE = "evaluate.py --config=score --pretrained=runs/old"
# Heading -> command lines, each with one mistake.
MISTAKES: dict[str, tuple[str, ...]] = {
    "Flags": (
        "pretrain.py --workdir=runs/new",
        "pretrain.py --config=mini",
        f"{PRETRAIN} --seed=1",
        f"{PRETRAIN} config.seed=1",
        "pretrain.py --config=configs/pretrain/rcmstr_cn.py --workdir=runs/new",
        "pretrain.py --config=rcmstr_cn --workdir=runs/new",
        "pretrain.py --config=rcmstr_vit:large --workdir=runs/new",
        "pretrain.py --config=mini --workdir=notes.txt",
    ),
    "Fields": (
        f"{PRETRAIN} --config.mim.mask_ration=0.5",
        f"{PRETRAIN} --config.mim=off",
        f"{PRETRAIN} --config.batch_size=many",
        f"{PRETRAIN} --config.model.encoder=resnet",
        f"{PRETRAIN} --config.contrast.hierarchies=\"('frame', 'words')\"",
        f"{PRETRAIN} --config.mim.mask_ratio=70",
        f"{PRETRAIN} --config.batch_size=100",
        f"{PRETRAIN} --config.rearrange.blocks=3",
        f"{PRETRAIN} --config.contrast.queue_size=100",
        f"{PRETRAIN} --config.total_steps=40",
    ),
    "Data": (
        f"{PRETRAIN} --config.data.source=data/words",
        f"{PRETRAIN} --config.data.source=lmdb:data/wrods",
        f"{PRETRAIN} --config.data.source=lmdb:data/photos",
        f"{PRETRAIN} --config.data.source=folder:data/nothing",
        f"{PRETRAIN} --config.data.source=synthetic --config.data.source=lmdb:data/words",
        f"{PRETRAIN} --config.data.source=lmdb:data/words --config.data.weights=1 "
        "--config.data.weights=2",
    ),
    "Evaluation": (
        EVALUATE,
        f"{SCORED} --config.benchmarks=data/nothing",
        f"{SCORE} --config.benchmarks=data/benchmark",
        f"{SCORED} --config.train.source=lmdb:data/benchmark",
        f"{SCORED} --config.train.labels=0",
        f"{SCORED} --config.protocol=linear",
        "pretrain.py --config=frozen_ctc --workdir=runs/new",
    ),
}


def prepare(folder: Path) -> None:
    """Puts what the command lines name into an empty folder."""
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "notes.txt").write_text("a file\n", encoding="utf-8")
    image = cv2.imencode(".png", np.full((32, 100, 3), 255, np.uint8))[1].tobytes()
    for place in ("data/words", "data/benchmark/SVT"):
        write_lmdb(folder / place, (Record(image, f"w{i}", "") for i in range(8)))
    for place in ("photos", "nothing"):
        (folder / "data" / place).mkdir()
    (folder / "data/photos/word.png").write_bytes(image)


def run(arguments: Sequence[str], folder: str, output: str) -> None:
    """Runs one of the launchers in a process of its own; its standard error goes to a file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    os.chdir(folder)
    sys.argv = [f"launch/{arguments[0]}", *arguments[1:]]
    runpy.run_path(str(ROOT / "launch" / arguments[0]), run_name="__main__")


def answer(command: str, folder: Path) -> str:
    """What a command line is answered on standard error.

    Raises:
      RuntimeError: if that is not one line, or the exit code is not 2.
    """
    output = folder / "answer.txt"
    output.unlink(missing_ok=True)
    # A clean process that has imported everything already makes those of the command lines.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rcmstr_jax.training.loop", "rcmstr_jax.evaluation.protocols"])
    process = context.Process(target=run, args=(shlex.split(command), str(folder), str(output)))
    process.start()
    process.join()
    said = output.read_text(encoding="utf-8").replace(f"{folder.resolve()}/", "")
    lines = said.splitlines()
    if process.exitcode != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        raise RuntimeError(f"{command}\nended with {process.exitcode} and said:\n{said}")
    return lines[0].removeprefix("error: ")


def make_page() -> tuple[str, list[str]]:
    """The page, and what is wrong with answers."""
    wrong = []
    parts = [
        "# Wrong command lines, and what they are answered\n\n"
        "Exit code 2, one line, before any long work. All of them start with `python launch/`; "
        "there are eight devices.\n"
        "Made by `python -m tests.launch.mistakes --write`; a test runs every line again and "
        "compares.\n"
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for heading, commands in MISTAKES.items():
            parts.append(f"\n## {heading}\n")
            for command in commands:
                try:
                    parts.append(f"\n```\n{command}\n```\n{answer(command, folder)}\n")
                except RuntimeError as error:
                    wrong.append(str(error))
    return "".join(parts), wrong


def main(write: bool) -> int:
    """Prints the page, and may write it; returns the exit code."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    page, wrong = make_page()
    print(page, end="")
    if wrong:
        print("\n\n".join(wrong), file=sys.stderr)
        return 1
    if write:
        PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(write="--write" in sys.argv[1:]))
