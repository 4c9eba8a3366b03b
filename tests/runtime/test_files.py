"""One process in a folder at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import held


def test_a_folder_is_held_by_one_process_until_it_leaves(tmp_path: Path) -> None:
    with held(tmp_path):
        # A second opening of the file is refused as that of another process is.
        said = f"in use by process {os.getpid()} on .*give another workdir"
        with pytest.raises(ConfigError, match=said), held(tmp_path):
            pass
    with pytest.raises(KeyError), held(tmp_path):
        raise KeyError
    with held(tmp_path):
        pass
