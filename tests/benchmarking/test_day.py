"""The day on an accelerator: stages once each, failures on the page, the same command goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rcmstr_jax.benchmarking import day as day_module
from rcmstr_jax.benchmarking import day_training
from rcmstr_jax.benchmarking.day import (
    Day,
    Stage,
    Unfinished,
    partial_path,
    results,
    run_day,
    write_page,
)
from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.data.synthetic.source import SyntheticSource
from rcmstr_jax.runtime.errors import ConfigError

# Finds something, and hangs.
CHILD = """
import json, sys, time
found = {"stage": "two", "seconds": 0, "error": "", "found": {"page": "before"}}
json.dump(found, open(sys.argv[1], "w"))
time.sleep(60)
"""


def make_day(out: Path) -> Day:
    return Day(out, True, 60.0, make_plan=lambda settings, fields: None, configs={}, golden=out)  # type: ignore


def stages_of(ran: list[str]) -> list[Stage]:
    """One that finds two things, one that fails after the first, one that is asked to stop once."""

    def two(day: Day) -> Iterator[dict[str, Any]]:
        ran.append("two")
        yield {"rows": [1], "page": "first"}
        yield {"more": 2, "page": "second"}

    def fails(day: Day) -> Iterator[dict[str, Any]]:
        ran.append("fails")
        yield {"page": "so far"}
        raise ValueError("no such\nthing")

    def stops(day: Day) -> Iterator[dict[str, Any]]:
        ran.append("stops")
        yield {"page": "once"}
        if ran.count("stops") == 1:
            raise Unfinished

    last = Stage("stops", "Stops", stops, share=0.5)
    return [Stage("two", "Two", two), Stage("fails", "Fails", fails), last]


def run(day: Day, stages: list[Stage], **options: Any) -> int:
    given: dict[str, Any] = {"minutes": 25.0, "limit": 0.0, "apart": None, **options}
    return run_day(day, stages, write_page=lambda d: write_page(d, stages, "# Head"), **given)


def test_stages_run_once_and_failures_stand_on_the_page(tmp_path: Path) -> None:
    ran: list[str] = []
    day, stages = make_day(tmp_path), stages_of(ran)[:2]
    assert run(day, stages) == 1
    page, data = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "day.json").read_text())
    assert page.startswith("# Head\n\n## Two\n\n`two`, 0 s:\n\nfirst\n\nsecond\n\n## Fails\n\n")
    assert "**failed**: ValueError: no such thing\n\nso far" in page
    assert data["two"]["found"] == {"page": "first\n\nsecond", "rows": [1], "more": 2}
    assert run(day, stages) == 1 and ran == ["two", "fails"]
    assert run(day, stages, again=["two"]) == 1 and ran == ["two", "fails", "two"]
    assert run(make_day(tmp_path / "one"), stages[:1]) == 0
    with pytest.raises(ConfigError, match="--stages=three: there is no such stage; two, fails"):
        run(day, stages, again=["three"])


def test_what_was_asked_to_stop_goes_on(tmp_path: Path) -> None:
    ran: list[str] = []
    day, stages = make_day(tmp_path), stages_of(ran)[2:3]
    with pytest.raises(Unfinished):
        run(day, stages)
    assert results(day, stages) == {}
    assert run(day, stages) == 0 and ran == ["stops", "stops"]


def test_time_that_is_up_ends_the_command_or_leaves_stages_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    day, stages = make_day(tmp_path), stages_of(ran)[:1]
    assert run(day, stages, limit=50.0) == 75
    assert "the same command goes on" in capsys.readouterr().out
    assert run(day, stages, minutes=0.4) == 1
    assert "two: left out" in capsys.readouterr().out and not ran
    assert "`two` was not run." in (tmp_path / "page.md").read_text()


def test_a_stage_that_hangs_is_stopped_and_keeps_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_module, "LEAST_SECONDS", 1.0)
    day, stages = make_day(tmp_path), stages_of([])[:1]
    day.result_path("two").parent.mkdir(parents=True)
    command = [sys.executable, "-S", "-c", CHILD, str(partial_path(day.result_path("two")))]
    stages = [dataclasses.replace(stages[0], minutes=0.05)]
    assert run(day, stages, apart=lambda stage, seconds: command) == 1
    (result,) = results(day, stages).values()
    assert result.error == "stopped after 3 s" and result.found == {"page": "before"}
    # Of a process that ends by itself the last line is the error.
    failing = [sys.executable, "-S", "-c", "raise SystemExit('no driver')"]
    assert run(day, stages, again=["two"], apart=lambda stage, seconds: failing) == 1
    (result,) = results(day, stages).values()
    assert result.error == "ended with 1: no driver"


def test_words_are_rendered_without_packages_that_an_accelerator_may_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    monkeypatch.setattr(day_training.fontfiles, "PACKAGES", ("matplotlib", "not-installed"))
    day = make_day(tmp_path)
    look = day_training.look(day)
    assert look["fonts"] == ("package:matplotlib",)
    source = SyntheticSource(0, options=RenderOptions.preset("scene", **look))
    assert source[0].text and source[0].image
    words = Path(look["words_from"]).read_text().split()
    assert len(words) > 2000 and {"the", "object", "function"} <= set(words[:100])


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path, repository: Path) -> None:
    script = str(repository / "launch/accelerator_day.sh")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without installed packages
    bare.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(bare)}
    done = subprocess.run(
        ["bash", script, str(tmp_path / "out")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "lacks array_record cv2" in done.stderr and "WHEELS=FOLDER" in done.stderr


@pytest.mark.long
def test_the_whole_day_in_small(tmp_path: Path, repository: Path) -> None:
    script = repository / "launch/accelerator_day.sh"
    done = subprocess.run(
        ["bash", str(script), str(tmp_path)], env={**_environment(), "SIZE": "test"}
    )
    assert done.returncode == 0, (tmp_path / "page.md").read_text()
    assert (tmp_path / "forms.json").is_file()
    data = json.loads((tmp_path / "day.json").read_text())
    assert len(data) == 17 and not any(result["error"] for result in data.values())


def _environment() -> dict[str, str]:
    shown = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**shown, "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}
