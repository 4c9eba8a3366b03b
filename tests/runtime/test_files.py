"""One process in a folder at a time, and folders of this machine alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rcmstr_jax.data.sources import open_source
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import held, refuse_remote
from rcmstr_jax.training.loop import open_session


def test_a_folder_is_held_by_one_process_until_it_leaves(tmp_path: Path) -> None:
    with held(tmp_path, "--workdir=mine"):
        # A second opening of the file is refused as that of another process is.
        said = f"in use by process {os.getpid()} on .*give another workdir"
        with pytest.raises(ConfigError, match=said), held(tmp_path, "--workdir=mine"):
            pass
    with pytest.raises(KeyError), held(tmp_path, "--workdir=mine"):
        raise KeyError
    with held(tmp_path, "--workdir=mine"):
        pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("gs://bucket/run", r"gs:// is not supported.*gcloud storage cp -r gs://bucket/run DIR"),
        (Path("gs://bucket/run"), r"gcloud storage cp -r gs://bucket/run DIR, or mount it"),
        ("tfds:words@s3://bucket", r"aws s3 cp --recursive s3://bucket DIR"),
        (("lmdb:data", "lmdb:GS://bucket"), r"--x=lmdb:GS://bucket: gs:// is not supported"),
        ("hdfs://host/run", r"copy hdfs://host/run here, and give that folder"),
        ("file:///data/run", r"file:// is not supported.*give /data/run"),
    ],
)
def test_places_elsewhere_are_refused_with_the_remedy(value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        refuse_remote("--x", value)


@pytest.mark.parametrize(
    "value", ["runs/a", "/runs/a", "lmdb:/data/words", "tfds:words:1.0.0@/data", "synthetic:1:5", 3]
)
def test_places_on_this_machine_are_not(value: Any) -> None:
    refuse_remote("--x", value)


def test_a_bucket_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--workdir=gs://bucket/run"):
        with open_session("gs://bucket/run"):
            pass
    with pytest.raises(ConfigError, match="data.source=lmdb:gs://bucket"):
        open_source("lmdb:gs://bucket/words")
    assert not list(tmp_path.iterdir())
