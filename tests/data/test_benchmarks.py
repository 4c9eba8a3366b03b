from __future__ import annotations

import shutil

import lmdb
import pytest

from rcmstr_jax.data.benchmarks import (
    ACCEPTED_SIZES,
    RULES,
    open_benchmark,
    passes,
    registered_name,
    resolve_benchmarks,
)
from rcmstr_jax.data.lmdb import LmdbSource, write_lmdb
from rcmstr_jax.data.records import Record


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("IIIT5K", "IIIT5K"),
        ("iiit5k_3000", "IIIT5K"),
        ("IC13_1015", "IC13"),
        ("ICDAR2013-857", "IC13"),
        ("SVT_647", "SVT"),
        ("svtp", "SVTP"),
        ("CUTE80", "CUTE80"),
        ("CUTE80_288", "CUTE80"),
        ("COCO-Text", "COCO-Text"),
        ("total_text", "Total-Text"),
        ("SROIE", None),
        ("IC13x", None),
    ],
)
def test_names(folder, name) -> None:
    assert registered_name(folder) == name


def test_registry_is_the_published_one() -> None:
    assert ACCEPTED_SIZES["IC13"] == (857, 1015, 1095)
    assert ACCEPTED_SIZES["IC03"] == (860, 867, 1107)
    assert ACCEPTED_SIZES["CUTE80"] == (288,)


def write(path, count) -> None:
    write_lmdb(path, (Record(b"x", "w", "t") for _ in range(count)))


def test_sizes_decide_whether_a_set_is_accepted(tmp_path) -> None:
    write(tmp_path / "mine" / "receipts", 3)
    write(tmp_path / "CUTE80", 288)
    write(tmp_path / "IC13_1015", 10)
    write(tmp_path / "HOST", 2)
    found = resolve_benchmarks(tmp_path)
    assert [(b.name, b.size, b.accepted) for b in found] == [
        ("IC13_10", 10, False),
        ("CUTE80_288", 288, True),
        ("HOST_2", 2, None),
        ("mine/receipts", 3, None),
    ]
    assert resolve_benchmarks(tmp_path / "CUTE80")[0].accepted
    assert found[3].path == tmp_path / "mine" / "receipts"


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("abc", ["all", "alphanumeric", "alphanumeric3"]),
        ("A1", ["all", "alphanumeric"]),
        ("it's", ["all"]),
        ("café", ["all"]),
        ("", ["all"]),
    ],
)
def test_rules(text, rules) -> None:
    assert [rule for rule in RULES if passes(rule, text)] == rules
    with pytest.raises(ValueError, match="filter='some'"):
        passes("some", text)


def test_real_ic13_is_the_subset_that_the_rules_make(real_dir) -> None:
    """1015 holds letters and digits only; its words of three characters or more are the 857."""
    source = LmdbSource(real_dir / "benchmark" / "IC13_1015")
    texts = [source[i].text or "" for i in range(len(source))]
    assert sum(passes("alphanumeric", text) for text in texts) == 1015
    assert sum(passes("alphanumeric3", text) for text in texts) == 857


def test_parts_of_a_set_are_named_after_it(tmp_path) -> None:
    write(tmp_path / "Union14M-Benchmarks" / "artistic", 2)
    write(tmp_path / "zzz", 1)
    found = resolve_benchmarks(tmp_path)
    assert [b.name for b in found] == ["Union14M-Benchmark/artistic", "zzz"]


def test_errors(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no LMDB under .*empty"):
        resolve_benchmarks(tmp_path / "empty")
    write(tmp_path / "a" / "SVT", 4)
    write(tmp_path / "b" / "SVT_4", 4)
    with pytest.raises(ValueError, match=r"two benchmarks under .* are called SVT_4: .*rename one"):
        resolve_benchmarks(tmp_path)


def test_what_cannot_be_scored_is_listed_with_its_fault(tmp_path) -> None:
    write(tmp_path / "good", 3)
    with lmdb.open(str(tmp_path / "empty"), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"num-samples", b"0")
    with lmdb.open(str(tmp_path / "foreign"), map_size=1 << 20) as env, env.begin(write=True) as t:
        t.put(b"key", b"value")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "data.mdb").write_bytes(b"no LMDB" * 1000)
    faults = {b.name: b.fault for b in resolve_benchmarks(tmp_path)}
    assert list(faults) == ["empty", "foreign", "garbage", "good"] and faults["good"] == ""
    assert "empty: num-samples is 0" in faults["empty"]
    assert "another layout" in faults["foreign"] and "cannot be opened" in faults["garbage"]
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(ValueError, match="no LMDB under .* can be scored.*another layout"):
        resolve_benchmarks(tmp_path)


def fill(folder, encode, labels: str) -> None:
    folder.mkdir(parents=True)
    for i in range(2):
        (folder / f"{i}.png").write_bytes(encode(i))
    if labels:
        (folder / "labels.tsv").write_text(labels)


def test_folders_of_images_are_benchmarks(tmp_path, encode) -> None:
    fill(tmp_path / "mine" / "SVT", encode, "0.png\ta\n1.png\tb\n")
    fill(tmp_path / "mine" / "signs", encode, "0.png\ta\n")
    found = resolve_benchmarks(f"folder:{tmp_path / 'mine'}")
    assert [(b.name, b.size, b.accepted) for b in found] == [
        ("SVT_2", 2, False),
        ("signs", 2, None),
    ]
    words = open_benchmark(found[1].path)
    assert [words[i].text for i in range(2)] == ["a", None]
    alone = resolve_benchmarks(f"folder:{tmp_path / 'mine' / 'signs'}?vertical=left")
    assert alone[0].name == "signs" and open_benchmark(alone[0].path)[0].turn == "left"
    write(tmp_path / "lmdbs" / "one", 3)
    assert resolve_benchmarks(f"lmdb:{tmp_path / 'lmdbs'}") == resolve_benchmarks(
        tmp_path / "lmdbs"
    )


def test_benchmarks_that_no_folder_can_be(tmp_path, encode) -> None:
    fill(tmp_path / "bare", encode, "")
    with pytest.raises(
        ValueError, match="holds 2 images and no labels: write them into labels.tsv"
    ):
        resolve_benchmarks(f"folder:{tmp_path / 'bare'}")
    with pytest.raises(ValueError, match="config.benchmarks=folder:/nowhere: there is no folder"):
        resolve_benchmarks("folder:/nowhere")
    fill(tmp_path / "torn", encode, "no tab\n")
    fill(tmp_path / "whole", encode, "0.png\ta\n")
    faults = {b.name: b.fault for b in resolve_benchmarks(f"folder:{tmp_path}")}
    assert "no tab" in faults["torn"] and not faults["whole"]


def test_real_benchmarks(real_dir) -> None:
    found = resolve_benchmarks(real_dir / "benchmark")
    assert [(b.name, b.size, b.accepted) for b in found] == [
        ("IC13_1015", 1015, True),
        ("SVT_647", 647, True),
    ]
