"""Two runs' losses beside each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rcmstr_jax.runtime.curves import relative_differences


def write(folder: Path, *lines: dict[str, float]) -> Path:
    folder.mkdir()
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_differences_are_relative_to_the_second_run_where_both_logged(tmp_path):
    first = write(
        tmp_path / "a",
        {"step": 1, "loss": 9.0, "loss/mim": 1.0, "grad_norm": 1.0},
        {"step": 2, "loss": 4.2, "loss/mim": 1.0},
        {"step": 3, "loss": 1.0},
    )
    second = write(
        tmp_path / "b",
        {"step": 2, "loss": 4.0, "loss/mim": -2.0},
        {"step": 1, "loss": 10.0, "grad_norm": 9.0},
    )
    found = relative_differences(first, second)
    assert set(found) == {"loss", "loss/mim"}
    np.testing.assert_array_equal(found["loss"][0], [1, 2])
    np.testing.assert_allclose(found["loss"][1], [0.1, 0.05], rtol=1e-12)
    np.testing.assert_allclose(found["loss/mim"][1], [1.5], rtol=1e-12)


def test_runs_without_a_step_in_common_are_named(tmp_path):
    first = write(tmp_path / "a", {"step": 1, "loss": 1.0})
    second = write(tmp_path / "b", {"step": 2, "loss": 1.0})
    with pytest.raises(ValueError, match="share no step of a curve that begins with loss"):
        relative_differences(first, second)


@pytest.mark.parametrize(("within", "code"), [("0.2", 0), ("0.02", 1)])
def test_command_judges_by_the_largest_difference(tmp_path, repository, within, code):
    write(tmp_path / "a", {"step": 1, "loss": 9.0}, {"step": 2, "loss": 10.0})
    write(tmp_path / "b", {"step": 1, "loss": 10.0}, {"step": 2, "loss": 10.0})
    command = [sys.executable, str(repository / "launch" / "compare.py"), "--what=losses"]
    command += [f"--first={tmp_path / 'a'}", f"--second={tmp_path / 'b'}", f"--within={within}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "loss: at most 10.00% (step 1), mean 5.00%" in done.stdout
