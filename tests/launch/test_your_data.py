"""docs/your_data.md: its commands are understood, and those that need no network run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from rcmstr_jax.data.benchmarks import resolve_benchmarks
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.data.synthetic import RenderOptions
from rcmstr_jax.data.synthetic.source import SyntheticSource
from rcmstr_jax.metrics.words import normalize_text
from rcmstr_jax.runtime.command_line import check_overrides
from tests.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    shlex.split(line) for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()
]
LAUNCHERS = {
    "rcmstr-evaluate": "evaluate", "rcmstr-recognize": "recognize", "rcmstr-prepare": "prepare",
    "rcmstr-render": "render_words",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the commands start: twelve rendered crops, six others."""
    root = tmp_path_factory.mktemp("mine")
    words = SyntheticSource(0, 18, RenderOptions(num_fonts=1, numbers=0, encoding="png"))
    for name, places in (("crops", range(12)), ("held_out", range(12, 18))):
        (root / name).mkdir()
        records = [words[i] for i in places]
        for record in records:
            (root / name / f"{record.key}.png").write_bytes(record.image)
        lines = "".join(f"{record.key}.png\t{record.text}\n" for record in records)
        (root / name / "labels.tsv").write_text(lines)
    return root


def test_every_command_is_of_this_package_and_the_page_is_short() -> None:
    assert len(PAGE.split()) <= 600
    assert len(COMMANDS) >= 6 and {command[0] for command in COMMANDS} == set(LAUNCHERS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_flags_and_fields_exist(command: list[str]) -> None:
    launcher = (ROOT / "launch" / f"{LAUNCHERS[command[0]]}.py").read_text(encoding="utf-8")
    options = set(RenderOptions.__dataclass_fields__) if command[0] == "rcmstr-render" else set()
    defined = options | set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', launcher))
    given = {a[2:].partition("=")[0] for a in command if a.startswith("--")}
    assert {flag for flag in given if not flag.startswith("config.")} <= defined
    check_overrides(command)  # raises where a config or a field is not there


def test_folders_are_sources_and_benchmarks(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    values = [a.partition("=")[2] for command in COMMANDS for a in command if "folder:" in a]
    assert set(values) == {"folder:crops", "folder:held_out", "folder:greek_held_out"}
    assert len(open_source("folder:crops")) == 12
    (benchmark,) = resolve_benchmarks("folder:held_out")
    assert (benchmark.name, benchmark.size, benchmark.fault) == ("held_out", 6, "")


def test_prepare_runs_as_typed(folder: Path, processes: Processes) -> None:
    (command,) = (command for command in COMMANDS if command[0] == "rcmstr-prepare")
    done = processes.script(ROOT / "launch" / "prepare.py", *command[1:], cwd=folder)
    assert done.returncode == 0, done.stderr
    sizes = [
        len(open_source(f"lmdb:{folder}/data/mine/{name}")) for name in ("train", "validation")
    ]
    assert sum(sizes) == 12 and "12 of 12 words" in done.stdout


def test_scores_of_the_page_are_counts_of_words() -> None:
    rows = re.findall(r"\| (\d+) \| ([\d.]+) ± ([\d.]+) \|", PAGE)
    total = int(re.search(r"right of (\d+)", PAGE)[1])  # type: ignore[index]
    assert len(rows) == 2
    for right, accuracy, error in rows:
        share = int(right) / total
        assert float(accuracy) == pytest.approx(100 * share, abs=0.01)
        assert float(error) == pytest.approx(
            100 * np.sqrt(share * (1 - share) / (total - 1)), abs=0.02
        )
    assert normalize_text("!", "alphanumeric") == ""  # which is why two of 200 are left out
