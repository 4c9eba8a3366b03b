from __future__ import annotations

import pytest

from rcmstr_jax.data.benchmarks import ACCEPTED_SIZES, registered_name, resolve_benchmarks
from rcmstr_jax.data.lmdb import write_lmdb
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


def test_errors(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no LMDB under .*empty"):
        resolve_benchmarks(tmp_path / "empty")
    write(tmp_path / "a" / "SVT", 4)
    write(tmp_path / "b" / "SVT_4", 4)
    with pytest.raises(ValueError, match=r"two benchmarks under .* are called SVT_4: .*rename one"):
        resolve_benchmarks(tmp_path)


def test_real_benchmarks(real_dir) -> None:
    found = resolve_benchmarks(real_dir / "benchmark")
    assert [(b.name, b.size, b.accepted) for b in found] == [
        ("IC13_1015", 1015, True),
        ("SVT_647", 647, True),
    ]
