"""The matrix unit is asked for where it is, once, and never against the user's own flags."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from rcmstr_jax.runtime import processor


@pytest.mark.parametrize(
    ("line", "found"),
    [("flags\t: fpu amx_bf16 avx512f", True), ("flags\t: fpu avx512f amx_bf16", True), ("", False)],
)
def test_matrix_unit_is_found_by_its_name(tmp_path: Path, line: str, found: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"{line}\nbogomips : 1\n")
    assert processor.has_matrix_unit(file) == found
    assert not processor.has_matrix_unit(tmp_path / "absent")


@pytest.mark.parametrize(
    ("before", "version", "after"),
    [
        ("", (0, 12, 0), " ".join(processor.MATRIX_UNIT)),
        ("--xla_one=1", (0, 12, 0), " ".join(["--xla_one=1", *processor.MATRIX_UNIT])),
        ("--xla_cpu_use_onednn=false", (0, 12, 0), "--xla_cpu_use_onednn=false"),
        ("--xla_one=1", (0, 11, 1), "--xla_one=1"),
    ],
)
def test_flags_are_added_to_those_given(
    monkeypatch: pytest.MonkeyPatch, before: str, version: tuple[int, ...], after: str
) -> None:
    monkeypatch.setenv("XLA_FLAGS", before)
    updates: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    on = processor.use_matrix_unit(version)
    assert os.environ["XLA_FLAGS"] == after and on == (before != after)
    assert updates == ({"jax_enable_compilation_cache": False} if on else {})


def test_freed_memory_is_handed_out_again_without_new_pages() -> None:
    # The setting holds for the whole process, so a process of its own is asked.
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource, numpy as np\n"
            "from rcmstr_jax.runtime.processor import keep_freed_memory\n"
            "def faults():\n"
            "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "    for _ in range(8): np.ones(2**24, np.float32)\n"
            "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
            "first = faults(); keep_freed_memory(); faults(); print(first, faults())\n",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    before, after = map(int, said.split())
    assert after < before / 10, said
