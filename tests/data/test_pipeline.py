from __future__ import annotations

import json

import lmdb
import numpy as np
import pytest

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import LmdbSource, write_lmdb
from rcmstr_jax.data.mixture import MixtureSource
from rcmstr_jax.data.pipeline import eval_batches, prefetch_to_device, train_batches
from rcmstr_jax.data.records import DataLost, Record

SIZE = (32, 100)


def take(source, count, **options):
    """The first batches of a training pipeline, fully in memory."""
    options = {"batch_size": 8, "image_size": SIZE, "seed": 3, **options}
    with train_batches(source, **options) as batches:
        return [{k: np.array(v) for k, v in next(batches).items()} for _ in range(count)]


def assert_same(some, others) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.fixture
def source(make_lmdb):
    """Twenty-one labelled words, of which numbers 3 and 11 cannot be used."""
    path = make_lmdb("words", count=21)
    with lmdb.open(str(path), map_size=1 << 24, lock=False) as env, env.begin(write=True) as txn:
        txn.put(b"image-000000003", b"")
        txn.delete(b"image-000000011")
    return LmdbSource(path)


def numbers_of(batches) -> np.ndarray:
    """The numbers of the words, which the fixture calls w0, w1, ..."""
    return np.array([int(text[1:]) for batch in batches for text in batch["text"]])


def test_batches_are_uint8_and_numbered(source) -> None:
    first, second = take(source, 2, with_text=True)
    assert first["image"].shape == (8, 32, 100, 3) and first["image"].dtype == np.uint8
    assert first["index"].dtype == np.int64
    np.testing.assert_array_equal(second["index"], np.arange(8, 16))
    assert list(take(source, 1)[0]) == ["image", "index"]


def test_every_epoch_has_every_usable_record(source) -> None:
    words = numbers_of(take(source, 21, batch_size=4, with_text=True))
    # The usable ones once in each of four epochs, and in the place of each unusable one another.
    for epoch in words.reshape(4, 21):
        assert set(epoch) == set(range(21)) - {2, 10}
    assert not np.array_equal(words[:21], words[21:42])


def test_seed_decides(source) -> None:
    def order(seed):
        return numbers_of(take(source, 3, seed=seed, with_text=True))

    assert np.array_equal(order(1), order(1))
    assert not np.array_equal(order(1), order(2))


@pytest.mark.parametrize("prefetch", [0, 3])
def test_resume_gives_the_same_batches(source, prefetch) -> None:
    whole = take(source, 7, with_text=True)
    assert_same(whole[4:], take(source, 3, with_text=True, start_step=4, prefetch=prefetch))


def test_hosts_share_the_same_batch(source) -> None:
    whole = take(source, 4)
    for count in (2, 4):
        parts = [take(source, 4, host_index=host, host_count=count) for host in range(count)]
        joined = [
            {key: np.concatenate([part[step][key] for part in parts]) for key in whole[0]}
            for step in range(4)
        ]
        assert_same(whole, joined)


def test_workers_change_nothing_and_report_faults(source) -> None:
    mixture = MixtureSource([source, source], (2, 1), seed=4)
    logs = FaultLog(), FaultLog()
    here = take(mixture, 6, with_text=True, faults=logs[0])
    assert_same(here, take(mixture, 6, with_text=True, workers=2, faults=logs[1], prefetch=1))
    assert logs[0].counts() == {"empty image": 1, "missing image key": 1}
    assert {fault.key for fault in logs[1].faults()} <= {"image-000000003", "image-000000011"}
    assert len(logs[1]) == 2


def test_cache_changes_nothing(source) -> None:
    log = FaultLog()
    cache = DecodedCache.build(source, SIZE, faults=log)
    assert len(log) == 2 and int((~cache.valid).sum()) == 2
    assert_same(
        take(source, 5, with_text=True),
        take(cache, 5, with_text=True, workers=3),
    )
    mixture = MixtureSource([source, source], (2, 1), seed=4)
    assert_same(take(mixture, 5), take(DecodedCache.build(mixture, SIZE), 5))
    with eval_batches(cache, batch_size=8, image_size=SIZE) as batches:
        assert sum(batch["valid"].sum() for batch in batches) == 19


def test_cache_errors(source, monkeypatch) -> None:
    with monkeypatch.context() as memory:
        memory.setattr("rcmstr_jax.data.cache._half_of_memory", lambda: 1000)
        with pytest.raises(ValueError, match=r"21 decoded images take .* data\.cache=False"):
            DecodedCache.build(source, SIZE)
    endless = MixtureSource([MixtureSource([source], (1,)), source], (1, 1))
    with pytest.raises(ValueError, match="never ends and cannot be kept"):
        DecodedCache.build(endless, SIZE)
    cache = DecodedCache.build(source, SIZE)
    with pytest.raises(ValueError, match="build the cache for this size"):
        take(cache, 1, image_size=(32, 128))
    with pytest.raises(ValueError, match="never ends"):
        eval_batches(DecodedCache.build(MixtureSource([source], (1,)), SIZE), batch_size=2,
                     image_size=SIZE)  # fmt: skip


def test_evaluation_is_padded_and_weighted(source) -> None:
    with eval_batches(source, batch_size=8, image_size=SIZE) as iterator:
        batches = list(iterator)
    assert len(batches) == 3
    assert all(batch["image"].shape == (8, 32, 100, 3) for batch in batches)
    index = np.concatenate([batch["index"] for batch in batches])
    weight = np.concatenate([batch["weight"] for batch in batches])
    valid = np.concatenate([batch["valid"] for batch in batches])
    texts = np.concatenate([batch["text"] for batch in batches])
    np.testing.assert_array_equal(index, [*range(21), -1, -1, -1])
    np.testing.assert_array_equal(weight, [1.0] * 21 + [0.0] * 3)
    assert weight.dtype == np.float32
    assert [i for i in range(24) if not valid[i]] == [2, 10, 21, 22, 23]
    # An image that cannot be decoded, or is gone, keeps its word.
    assert texts[2] == "w2" and texts[10] == "w10" and texts[20] == "w20"


def test_records_without_label_count_when_labels_are_wanted(make_lmdb) -> None:
    bare = LmdbSource(make_lmdb("bare", labelled=False))
    log = FaultLog()
    with eval_batches(
        bare, batch_size=8, image_size=SIZE, require_text=True, faults=log
    ) as batches:
        assert not next(batches)["valid"].any()
    assert log.counts() == {"no label": 7}


def test_training_ends_where_nothing_can_be_used(tmp_path) -> None:
    write_lmdb(tmp_path / "empty", (Record(b"", "w", "t") for _ in range(7)))
    with pytest.raises(DataLost, match="14 records in a row cannot be used.*empty image"):
        take(LmdbSource(tmp_path / "empty"), 1, prefetch=0)


def test_report_is_written(source, tmp_path) -> None:
    log = FaultLog(tmp_path / "work" / "faults.json")
    take(source, 6, faults=log)
    report = json.loads((tmp_path / "work" / "faults.json").read_text())
    assert report["total"] == 2 and report["by_source"] == {source.name: 2}
    assert [r["key"] for r in report["records"]] == ["image-000000003", "image-000000011"]


def test_closing_ends_it(source) -> None:
    batches = train_batches(source, batch_size=8, image_size=SIZE, seed=0)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_prefetch_stays_ahead() -> None:
    placed = []

    def place(batch):
        placed.append(batch)
        return -batch

    stream = prefetch_to_device(iter(range(1, 6)), 2, place)
    assert next(stream) == -1 and placed == [1, 2, 3]
    assert list(stream) == [-2, -3, -4, -5]
    assert list(prefetch_to_device(iter([1, 2]), 0, place)) == [-1, -2]


def test_argument_errors(source) -> None:
    for options, message in [
        ({"batch_size": 7, "host_count": 2}, "batch_size 7 is not divisible by 2 hosts"),
        ({"host_index": 2, "host_count": 2}, "host_index is 2"),
        ({"start_step": -1}, "start_step is -1"),
        ({"workers": -1}, r"data\.workers is -1"),
        ({"prefetch": -1}, r"data\.prefetch is -1"),
        ({"image_size": (0, 100)}, "image_size is"),
    ]:
        with pytest.raises(ValueError, match=message):
            take(source, 1, **options)
