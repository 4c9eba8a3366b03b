"""The shell around the launchers: which interpreter, what is installed, which phases run again.

A stand-in for the interpreter of `.venv` notes what it was asked to do, so that this takes no time;
the real thing is `bash launch/quickstart.sh` itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

STAND_IN = r"""#!/bin/bash
case "$1" in
  -c) [ "$#" -gt 2 ] || echo 3.11; exit 0 ;;
  -m) echo "$*" >>"$STAND_IN_LOG"; exit 0 ;;
esac
echo "$*" >>"$STAND_IN_LOG"
for argument in "$@"; do
  case "$argument" in
    --out=*.json) echo '{}' >"${argument#*=}" ;;
    --out=* | --workdir=*) mkdir -p "${argument#*=}" ;;
  esac
done
if [ "$(basename "$1")" = "${STAND_IN_FAILS:-}" ]; then exit "${STAND_IN_CODE:-1}"; fi
"""


class Checkout:
    """A copy of the checkout whose `.venv` holds the stand-in."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.root, self.log = root, root / "log"
        for name in ("launch", "configs", "rcmstr_jax"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(repository / name, root / name, ignore=ignore)
        for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
            shutil.copy(repository / name, root / name)
        (root / ".venv/bin").mkdir(parents=True)
        python = root / ".venv/bin/python"
        python.write_text(STAND_IN)
        python.chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs a script from another folder; `called` then holds the stand-in's command lines."""
        self.log.write_text("")
        done = subprocess.run(
            ["bash", str(self.root / script), *arguments],
            cwd=self.root.parent,
            env={"PATH": os.environ["PATH"], "STAND_IN_LOG": str(self.log), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.called = self.log.read_text().splitlines()
        return done

    def launched(self) -> list[str]:
        """Names of the launchers that ran, in order."""
        return [Path(line.split()[0]).stem for line in self.called if line.startswith("launch/")]


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Checkout:
    return Checkout(tmp_path / "checkout", repository)


END = ["report", "compare", "compare"]
ALL = ["render_words"] * 4 + ["pretrain"] + ["evaluate"] * 6 + END


def test_quickstart_runs_every_phase_and_writes_where_it_was_asked(checkout: Checkout) -> None:
    done = checkout.run("launch/quickstart.sh", "results")
    assert done.returncode == 0, done.stderr
    assert checkout.launched() == ALL
    out = checkout.root.parent / "results"  # relative to where it was called, not to the checkout
    assert json.loads((out / "results.json").read_text()) == {}
    evaluated = [line for line in checkout.called if "launch/evaluate" in line]
    read, scored = evaluated[4:], evaluated[:4]
    assert all("words/real_looking" in line for line in read)
    # Two at a time, in any order.
    starts = [sorted("random:" in line for line in scored[i : i + 2]) for i in (0, 2)]
    assert starts == [[False, True]] * 2
    assert all(f"{out}/pretrain" in line for line in scored)
    # What is scored must be neither pretrained nor trained on.
    rendered = [line for line in checkout.called if "launch/render_words" in line]
    assert sorted(("--split=test" in line, "words/test" in line) for line in rendered) == [
        (False, False), (False, False), (False, False), (True, True),
    ]  # fmt: skip
    assert len({line.split("--seed=")[1].split()[0] for line in rendered}) == 4


def test_quickstart_reuses_what_is_unchanged(checkout: Checkout) -> None:
    checkout.run("launch/quickstart.sh", "results")
    done = checkout.run("launch/quickstart.sh", "results")
    assert checkout.launched() == END, done.stdout
    assert "reused" in done.stdout

    config = checkout.root / "configs/evaluate/common.py"
    config.write_text(config.read_text() + "# another default\n")
    checkout.run("launch/quickstart.sh", "results")
    assert checkout.launched() == ["evaluate"] * 6 + END

    checkout.run("launch/quickstart.sh", "results", SEED="1")
    assert checkout.launched() == ALL


def test_quickstart_continues_an_interrupted_pretraining(checkout: Checkout) -> None:
    stop = {"STAND_IN_FAILS": "pretrain.py", "STAND_IN_CODE": "75"}
    done = checkout.run("launch/quickstart.sh", "results", **stop)
    assert done.returncode == 1 and "the same command goes on" in done.stderr
    checkpoint = checkout.root.parent / "results/pretrain/checkpoint"
    checkpoint.write_text("step 3")
    checkout.run("launch/quickstart.sh", "results")
    assert checkout.launched() == ALL[4:]
    assert checkpoint.read_text() == "step 3"


def test_quickstart_starts_an_interrupted_rendering_anew(checkout: Checkout) -> None:
    checkout.run("launch/quickstart.sh", "results", STAND_IN_FAILS="render_words.py")
    half = checkout.root.parent / "results/words/unlabelled/half"
    half.write_text("")
    done = checkout.run("launch/quickstart.sh", "results")
    assert done.returncode == 0 and checkout.launched() == ALL
    assert not half.exists()


def test_quickstart_leaves_foreign_folders_alone(checkout: Checkout) -> None:
    mine = checkout.root.parent / "results/words/unlabelled/thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    done = checkout.run("launch/quickstart.sh", "results")
    assert done.returncode == 1 and "not made by this script" in done.stderr
    assert mine.exists() and checkout.launched() == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SEED": "one"}, "SEED=one must be a whole number"),
        ({"SIZE": "huge"}, "SIZE=huge is unknown; use full or test"),
        ({"PYTHON": "false"}, "PYTHON=false is no working Python, but .venv was made with 3.11"),
    ],
)
def test_quickstart_names_what_is_wrong(
    checkout: Checkout, environment: dict[str, str], message: str
) -> None:
    done = checkout.run("launch/quickstart.sh", "results", **environment)
    assert done.returncode == 1 and message in done.stderr
    assert checkout.launched() == []


def test_missing_python_is_named_with_the_remedy(checkout: Checkout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.root / ".venv")
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "basename", "dirname", "mkdir", "cat"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    done = checkout.run("launch/test.sh", PATH=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert "needs Python 3.11 to 3.13 on PATH" in done.stderr and "PYTHON=" in done.stderr


def test_installation_is_done_once_per_state_of_its_files(checkout: Checkout) -> None:
    def installs() -> list[str]:
        pip = [line for line in checkout.called if line.startswith("-m pip install")]
        return [line.split("-e ")[1].split()[0] for line in pip]

    checkout.run("launch/quickstart.sh", "results")
    assert installs() == [".[render]"]
    checkout.run("launch/test.sh")
    assert installs() == [".[dev]"]
    checkout.run("launch/test.sh")
    assert installs() == []
    (checkout.root / "constraints.txt").write_text("numpy==2.0.0\n")
    checkout.run("launch/test.sh")
    assert installs() == [".[dev]"]
    checkout.run("launch/quickstart.sh", "results")  # the extra brought the package along
    assert installs() == []


def test_checks_all_run_and_any_failure_counts(checkout: Checkout) -> None:
    python = checkout.root / ".venv/bin/python"
    broken = STAND_IN.replace("exit 0 ;;\nesac", '[ "$2" != ruff ]; exit ;;\nesac')
    assert broken != STAND_IN
    python.write_text(broken)
    done = checkout.run("launch/test.sh")
    assert done.returncode == 1 and "failed: ruff format" in done.stderr
    ran = [line.split()[1] for line in checkout.called if "pip" not in line]
    assert ran == ["ruff", "ruff", "mypy", "pytest"]


@pytest.mark.parametrize("script", ["test.sh", "test_wheel.sh", "quickstart.sh", "tpu_pod.sh"])
def test_help_is_printed_and_nothing_runs(checkout: Checkout, script: str) -> None:
    done = checkout.run(f"launch/{script}", "--help")
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 4 and not done.stderr
    assert done.stdout.splitlines()[-1].strip() and checkout.called == []
