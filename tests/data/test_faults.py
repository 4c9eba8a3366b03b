from __future__ import annotations

import json

import pytest

from rcmstr_jax.data.faults import Fault, FaultLog


def test_each_record_is_named_once(tmp_path) -> None:
    log = FaultLog(tmp_path / "faults.json")
    assert log.add(Fault("lmdb:a", "2", "empty image"))
    assert not log.add(Fault("lmdb:a", "2", "empty image"))
    log.extend([Fault("lmdb:a", "1", "truncated JPEG"), Fault("lmdb:b", "2", "empty image", "why")])
    log.write()
    assert json.loads((tmp_path / "faults.json").read_text()) == {
        "total": 3,
        "by_reason": {"empty image": 2, "truncated JPEG": 1},
        "by_source": {"lmdb:a": 2, "lmdb:b": 1},
        "records": [
            {"source": "lmdb:a", "key": "1", "reason": "truncated JPEG", "detail": ""},
            {"source": "lmdb:a", "key": "2", "reason": "empty image", "detail": ""},
            {"source": "lmdb:b", "key": "2", "reason": "empty image", "detail": "why"},
        ],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["faults.json"]


def test_a_restart_keeps_what_was_found(tmp_path) -> None:
    path = tmp_path / "faults.json"
    first = FaultLog(path)
    first.add(Fault("a", "1", "empty image"))
    first.write()
    second = FaultLog(path)
    assert not second.add(Fault("a", "1", "empty image"))
    second.add(Fault("a", "2", "empty image"))
    second.write()
    assert json.loads(path.read_text())["total"] == 2


def test_nothing_found_writes_nothing(tmp_path) -> None:
    log = FaultLog(tmp_path / "faults.json")
    log.flush()
    log.write()
    assert not (tmp_path / "faults.json").exists()
    FaultLog().write()


def test_only_the_first_is_announced(caplog) -> None:
    log = FaultLog()
    log.extend([Fault("lmdb:a", "1", "empty image"), Fault("lmdb:a", "2", "empty image")])
    assert len(caplog.records) == 1
    assert "lmdb:a 1: empty image" in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", '{"records": [{"no": 1}]}'])
def test_a_foreign_report_is_refused(tmp_path, content) -> None:
    (tmp_path / "faults.json").write_text(content)
    with pytest.raises(ValueError, match=r"faults\.json is not a report .*delete it"):
        FaultLog(tmp_path / "faults.json")
