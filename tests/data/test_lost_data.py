"""Data that go away while a run reads them: it goes on where it can, else it says what to do."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from rcmstr_jax.data.folder import FolderSource
from rcmstr_jax.data.lmdb import LmdbSource
from rcmstr_jax.data.pipeline import train_batches
from rcmstr_jax.data.records import DataLost
from rcmstr_jax.runtime.command_line import one_line_errors

OPTIONS = {"batch_size": 4, "image_size": (32, 100), "seed": 0}


def test_a_removed_lmdb_is_read_on_where_it_is_open(make_lmdb) -> None:
    path = make_lmdb("words", count=16)
    source = LmdbSource(path)
    with train_batches(source, prefetch=0, **OPTIONS) as batches:
        whole = [next(batches)["image"] for _ in range(8)]
    with train_batches(source, prefetch=0, **OPTIONS) as batches:
        first = next(batches)["image"]
        shutil.rmtree(path)
        rest = [next(batches)["image"] for _ in range(7)]
    np.testing.assert_array_equal([first, *rest], whole)


def test_a_removed_lmdb_that_must_be_opened_anew_is_named(make_lmdb, capsys) -> None:
    path = make_lmdb("words")
    source = LmdbSource(path)
    shutil.rmtree(path)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        pickle.loads(pickle.dumps(source))[0]  # as a worker process gets it
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    for part in (f"lmdb:{path} was there", "No such file", "Put the same LMDB back", "continues"):
        assert part in line


def test_workers_tell_the_main_process(make_lmdb) -> None:
    path = make_lmdb("words")
    source = LmdbSource(path)
    shutil.rmtree(path)
    with train_batches(source, workers=1, prefetch=1, **OPTIONS) as batches:
        with pytest.raises(DataLost, match=r"lmdb:.*words was there when the run began"):
            next(batches)


def test_an_lmdb_that_shrinks_under_a_worker_ends_the_run_clearly(make_lmdb) -> None:
    path = make_lmdb("words", count=400)
    # Reading past the end of the file is a bus error, which no process survives.
    with train_batches(LmdbSource(path), workers=1, prefetch=1, **OPTIONS) as batches:
        next(batches)
        os.truncate(path / "data.mdb", 4096)
        with pytest.raises(DataLost, match=r"exit code -7.*Restore the file.*newest checkpoint"):
            for _ in range(200):
                next(batches)


def test_a_removed_folder_is_named(tmp_path, encode) -> None:
    for i in range(8):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{i}.png").write_bytes(encode(i))
    with train_batches(FolderSource(tmp_path / "images"), prefetch=0, **OPTIONS) as batches:
        next(batches)
        shutil.rmtree(tmp_path / "images")
        with pytest.raises(DataLost, match=r"folder:.*images.*in a row .*file cannot be read"):
            next(batches)
