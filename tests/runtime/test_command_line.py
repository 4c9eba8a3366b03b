"""Configs by name or path, from any folder, and how launchers say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rcmstr_jax.configs.evaluate import compact as evaluate_compact
from rcmstr_jax.configs.evaluate import frozen_ctc
from rcmstr_jax.configs.pretrain import compact as pretrain_compact
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.runtime.command_line import (
    EVALUATE,
    PRETRAIN,
    check_overrides,
    config_path,
    shipped_configs,
)
from rcmstr_jax.runtime.errors import ConfigError

SHOW = """
from absl import flags
from ml_collections import config_flags
from rcmstr_jax.runtime import command_line

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")

def main(argv):
    print(CONFIG.value.batch_size, CONFIG.value.total_images, argv[1:])

command_line.command(main, positional=True)()
"""


def test_names_stand_for_the_files_of_the_package() -> None:
    known = shipped_configs()
    assert known["mini"] == mini.__file__ and known["frozen_ctc"] == frozen_ctc.__file__
    assert "common" not in known and "__init__" not in known
    assert config_path("frozen_ctc:mini") == f"{frozen_ctc.__file__}:mini"
    assert check_overrides(["x", "--config", "mini:test", "--config.seed=3"])["seed"] == 0


def test_a_name_of_both_kinds_is_the_launchers_own() -> None:
    assert config_path("compact") == config_path("compact", EVALUATE) == evaluate_compact.__file__
    assert config_path("compact", PRETRAIN) == pretrain_compact.__file__
    assert config_path("frozen_ctc", PRETRAIN) == frozen_ctc.__file__
    argv = ["x", "--config=compact", "--config.total_images=64"]
    assert "total_images" in check_overrides(argv, room=PRETRAIN)
    with pytest.raises(ConfigError, match="total_images: there is no such field"):
        check_overrides(argv)


def test_paths_stay_what_they_are(tmp_path: Path) -> None:
    own = tmp_path / "mini.py"
    own.write_text("")
    assert config_path(f"{own}:a") == f"{own}:a"
    with pytest.raises(ConfigError, match=r"there is no file .*mimi\.py: did you mean .*mini\.py"):
        config_path(str(tmp_path / "mimi.py"))


@pytest.mark.parametrize(
    ("spec", "meant"), [("minni", "mini"), ("frozen_ctx:mini", "frozen_ctc"), ("vit", "rcmstr_vit")]
)
def test_an_unknown_name_is_answered_with_the_closest(spec: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"--config={spec}: no config .* did you mean {meant}?"):
        config_path(spec)


@pytest.mark.parametrize("given", [["--config=mini:test"], ["--config", "mini:test"]])
def test_a_name_works_with_overrides_from_any_folder(tmp_path: Path, given: list[str]) -> None:
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    command = [sys.executable, str(script), *given, "--config.batch_size=24", "a.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    images = mini.get_config("test").total_images
    assert done.stdout == f"24 {images} ['a.png']\n", done.stderr


def test_help_of_an_installed_command_shows_its_flags() -> None:
    code = "import sys; sys.argv[:] = ['rcmstr-prepare', '--help']\n"
    code += "from rcmstr_jax.launch.prepare import run; run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "Turns labelled images" in done.stdout and "--annotation" in done.stdout
