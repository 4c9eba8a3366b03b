from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from rcmstr_jax.data.lmdb import LmdbSource, find_lmdbs, write_lmdb
from rcmstr_jax.data.records import BadRecord, Record, RecordSource


def put(path: Path, pairs: dict[bytes, bytes | None]) -> Path:
    """Writes or deletes keys of an LMDB as no tool of ours would."""
    with lmdb.open(str(path), map_size=1 << 24, lock=False) as env, env.begin(write=True) as txn:
        for key, value in pairs.items():
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)
    return path


def test_reads_what_it_wrote(make_lmdb, encode) -> None:
    source = LmdbSource(make_lmdb("a", count=3))
    assert isinstance(source, RecordSource)
    assert len(source) == 3 and source.labelled
    record = source[1]
    assert record.text == "w1" and record.key == "image-000000002"
    assert record.source == source.name
    assert record.image == encode(ord("a") * 1000 + 1)
    with pytest.raises(IndexError, match="3"):
        source[3]


def test_layout_is_the_published_one(make_lmdb) -> None:
    path = make_lmdb("a", count=2)
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb"]
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        keys = [bytes(key) for key, _ in txn.cursor()]
    assert keys == [
        b"image-000000001",
        b"image-000000002",
        b"label-000000001",
        b"label-000000002",
        b"num-samples",
    ]


def test_unlabelled_and_labels_off(make_lmdb) -> None:
    bare = LmdbSource(make_lmdb("bare", labelled=False))
    assert not bare.labelled and bare[0].text is None and len(bare) == 7
    off = LmdbSource(make_lmdb("full"), labels=False)
    assert not off.labelled and off[0].text is None


def test_opens_once_and_survives_pickling(make_lmdb) -> None:
    path = make_lmdb("a")
    source, again = LmdbSource(path), LmdbSource(path)
    assert source._environment() is again._environment()
    copy = pickle.loads(pickle.dumps(source))
    assert copy._env is None and copy[2] == source[2]


FORK = """
import os, sys
from rcmstr_jax.data.lmdb import LmdbSource
source = LmdbSource(sys.argv[1])
parent_env = source._environment()
child = os.fork()
if child == 0:
    fresh = source[2].text == "w2" and source._environment() is not parent_env
    os._exit(0 if fresh else 1)
sys.exit(os.waitpid(child, 0)[1] != 0 or source[2].text != "w2")
"""


def test_survives_a_fork(make_lmdb) -> None:
    # In a process of its own: this one has threads, with which forking does not go together.
    subprocess.run([sys.executable, "-c", FORK, str(make_lmdb("a"))], check=True, timeout=60)


def test_a_replaced_lmdb_is_opened_anew(tmp_path, encode) -> None:
    write_lmdb(tmp_path / "a", [Record(b"old", "old", "t")])
    assert LmdbSource(tmp_path / "a")[0].text == "old"
    write_lmdb(tmp_path / "b", [Record(b"new", "new", "t")])
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b").rename(tmp_path / "a")
    assert LmdbSource(tmp_path / "a")[0].text == "new"


def test_finds_roots_at_any_depth(make_lmdb, tmp_path) -> None:
    make_lmdb("x/b")
    make_lmdb("x/y/a")
    assert find_lmdbs(tmp_path) == [tmp_path / "x/b", tmp_path / "x/y/a"]
    assert find_lmdbs(tmp_path / "x/b") == [tmp_path / "x/b"]
    assert len(LmdbSource(find_lmdbs(tmp_path / "x/b/data.mdb")[0])) == 7


def test_writer_grows_and_leaves_nothing_behind(tmp_path) -> None:
    big = bytes(3_000_000)
    assert write_lmdb(tmp_path / "big", (Record(big, "w", "t") for _ in range(30))) == 30
    assert LmdbSource(tmp_path / "big")[29].image == big

    def failing():
        yield Record(b"x", "w", "t")
        raise RuntimeError("renderer failed")

    with pytest.raises(RuntimeError):
        write_lmdb(tmp_path / "half", failing())
    with pytest.raises(ValueError, match="no records"):
        write_lmdb(tmp_path / "none", [])
    with pytest.raises(ValueError, match="exists"):
        write_lmdb(tmp_path / "big", [Record(b"x", "w", "t")])
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_errors_name_path_and_remedy(tmp_path, make_lmdb) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*does not exist.*data\.mdb"):
        find_lmdbs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no LMDB under .*empty.*folder:PATH"):
        find_lmdbs(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no LMDB at .*empty"):
        LmdbSource(tmp_path / "empty")
    foreign = put(tmp_path / "foreign", {b"some-key": b"1"})
    with pytest.raises(ValueError, match=r"foreign.*num-samples.*some-key.*image-000000001"):
        LmdbSource(foreign)
    with pytest.raises(ValueError, match="num-samples is b'many', not a number"):
        LmdbSource(put(tmp_path / "many", {b"num-samples": b"many"}))
    with pytest.raises(ValueError, match="is empty: num-samples is 0"):
        LmdbSource(put(tmp_path / "zero", {b"num-samples": b"0"}))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(ValueError, match="cannot be opened as an LMDB"):
        LmdbSource(tmp_path / "text")
    cut = make_lmdb("cut", count=50) / "data.mdb"
    os.truncate(cut, cut.stat().st_size // 2)
    with pytest.raises(ValueError, match="is truncated: .* copy or download it again"):
        LmdbSource(cut.parent)


def test_damaged_records_say_where_and_why(make_lmdb, caplog) -> None:
    path = put(
        make_lmdb("a", count=5),
        {
            b"image-000000002": None,
            b"label-000000003": b"\xff\xfe",
            b"num-samples": b"20",
        },
    )
    source = LmdbSource(path)
    assert len(source) == 20 and "num-samples is 20" in caplog.text
    with pytest.raises(BadRecord, match="missing image key") as missing:
        source[1]
    assert missing.value.source == source.name and missing.value.key == "image-000000002"
    with pytest.raises(BadRecord, match="label is not UTF-8"):
        source[2]
    with pytest.raises(BadRecord, match="missing image key"):
        source[19]
    copy = pickle.loads(pickle.dumps(missing.value))
    assert (copy.reason, copy.source, copy.key) == (
        "missing image key",
        source.name,
        "image-000000002",
    )
    assert source[0].text == "w0"


def test_real_sets(real_dir) -> None:
    sizes = {path.name: len(LmdbSource(path)) for path in find_lmdbs(real_dir)}
    assert sizes == {
        "IC13_1015": 1015,
        "SVT_647": 647,
        "IC03": 952,
        "IC15": 4468,
        "IIIT5K": 2000,
        "SVT": 257,
        "SROIE": 17419,
    }
    assert not LmdbSource(real_dir / "unlabelled/SROIE").labelled
