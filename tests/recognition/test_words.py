"""Which words are trained on: filter, nested subsets, benchmarks kept out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lmdb
import pytest

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import BadRecord, Record, label_of
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.recognition.words import check_sources, choose_words
from tests.recognition.toy_words import picture

FULL = Charset.preset(94)


class Words:
    """A source of labels without images."""

    name = "words"

    def __init__(self, texts: list[str | None], *, endless: bool = False) -> None:
        self.texts = texts
        self.endless = endless

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int, /) -> Record:
        text = self.texts[index]
        if text == "BROKEN":
            raise BadRecord("label is not UTF-8", source=self.name, key=str(index))
        return Record(b"image", text, self.name, str(index))


def choose(source: Words, labels: float, seed: int = 0, **kwargs):
    arguments = {"charset": FULL, "max_length": 25, "faults": FaultLog()} | kwargs
    return choose_words(source, labels=labels, seed=seed, **arguments)[:3]


def test_subsets_are_seeded_and_nested() -> None:
    source = Words([f"w{i}" for i in range(1000)])
    chosen = {size: list(choose(source, size)[0].indices) for size in (0.01, 0.1, 50, 1.0)}
    assert [len(chosen[size]) for size in (0.01, 0.1, 50, 1.0)] == [10, 100, 50, 1000]
    assert chosen[0.01] == chosen[0.1][:10] == chosen[50][:10]
    assert chosen[50] == chosen[0.1][:50] and chosen[0.1] == chosen[1.0][:100]
    assert sorted(chosen[1.0]) == list(range(1000))
    assert list(choose(source, 50)[0].indices) == chosen[50]
    assert list(choose(source, 50, seed=1)[0].indices) != chosen[50]


def test_labels_fit_their_records() -> None:
    subset, texts, _ = choose(Words([f"w{i}" for i in range(40)]), 0.5)
    assert [subset[i].text for i in range(len(subset))] == texts
    assert [subset.first(3)[i].text for i in range(3)] == texts[:3]


def test_what_is_left_out_is_counted() -> None:
    source = Words(["fine", "Жук", None, "", "x" * 26, "y" * 25, "BROKEN", "two words"])
    faults = FaultLog()
    subset, texts, counts = choose(source, 1.0, faults=faults)
    assert sorted(texts) == ["fine", "two words", "y" * 25]
    assert dataclasses.asdict(counts) == {
        "available": 8,
        "examined": 8,
        "unlabelled": 2,
        "outside_charset": 1,
        "too_long": 1,
        "unreadable": 1,
        "trained_on": 3,
    }
    assert [fault.key for fault in faults.faults()] == ["6"] and len(subset) == 3


class Whole:
    """A source as it was before labels could be read by themselves."""

    def __init__(self, source) -> None:
        self.source, self.name = source, source.name
        self.endless = getattr(source, "endless", False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Record:
        return self.source[index]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """An LMDB and two folders in which labels and images are missing or broken."""
    root = tmp_path_factory.mktemp("words")
    texts = [f"w{i}" if i % 5 else ("", "я", "x" * 26, None)[i // 5 % 4] for i in range(60)]
    write_lmdb(root / "lmdb", (Record(picture("ab"), text, "toy") for text in texts))
    with lmdb.open(str(root / "lmdb"), lock=False, map_size=1 << 26) as environment:
        with environment.begin(write=True) as transaction:
            transaction.delete(b"image-%09d" % 7)
            transaction.put(b"label-%09d" % 9, b"\xff")
    for name in ("table", "beside"):
        (root / name).mkdir()
        for i, text in enumerate(texts):
            (root / name / f"{i}.png").write_bytes(picture("ab"))
            if name == "beside" and text is not None:
                (root / name / f"{i}.txt").write_text(text, encoding="utf-8")
        (root / name / "7.png").unlink()
        (root / name / "7.png").symlink_to(root / "nowhere")
    lines = [f"{i}.png\t{text}\n" for i, text in enumerate(texts) if text]
    (root / "table" / "labels.tsv").write_text("".join(lines), encoding="utf-8")
    (root / "beside" / "9.txt").write_bytes(b"\xff")
    return root


@pytest.mark.parametrize(
    "specs",
    ["lmdb", "table", "beside", "lmdb beside", "lmdb?vertical=left", "synthetic:3:40", "mixture"],
)
def test_labels_alone_choose_the_same_words(places: Path, specs: str) -> None:
    """As whole records do: order, counts and faults, in every kind of source."""
    weights = None
    if specs == "mixture":
        specs, weights = "table synthetic:3:40", (2.0, 1.0)
    kinds = {"lmdb": "lmdb", "table": "folder", "beside": "folder"}
    source = open_source(
        [
            f"{kinds[spec.partition('?')[0]]}:{places / spec}" if "synthetic" not in spec else spec
            for spec in specs.split()
        ],
        weights=weights,
    )
    found = []
    for one in (source, Whole(source)):
        faults = FaultLog()
        chosen = choose_words(
            one, labels=20 if weights else 1.0, seed=4, charset=Charset.preset(36),
            max_length=25, faults=faults,
        )  # fmt: skip
        found.append((list(chosen.subset.indices), chosen.texts, chosen.counts, faults.faults()))
    assert found[0] == found[1]
    assert len(found[0][1]) > 10


def test_labels_are_read_without_images(places: Path, monkeypatch) -> None:
    for spec in (f"lmdb:{places / 'lmdb'}", f"folder:{places / 'table'}", "synthetic:3:40"):
        source = open_source(spec)
        text = source[1].text
        monkeypatch.setattr(type(source), "__getitem__", None)
        assert label_of(source, 1) == text
        monkeypatch.undo()


def test_a_number_of_labels_counts_usable_words_only() -> None:
    source = Words(["ok", "я"] * 50)
    subset, texts, counts = choose(source, 20)
    assert texts == ["ok"] * 20 and len(subset) == 20
    assert counts.examined == 20 + counts.outside_charset


def test_case_fits_the_charset() -> None:
    assert choose(Words(["AbC"]), 1.0, charset=Charset.preset(36))[1] == ["abc"]


def test_an_endless_source_is_taken_from_its_beginning() -> None:
    source = Words([f"w{i}" for i in range(100)], endless=True)
    subset, _, counts = choose(source, 7)
    assert list(subset.indices) == list(range(7)) and counts.available is None
    with pytest.raises(ValueError, match="train.labels=0.5.*endless.*train.labels=20000"):
        choose(source, 0.5)


def test_more_labels_than_words() -> None:
    with pytest.raises(ValueError, match="train.labels=4.*holds 3 words"):
        choose(Words(["a", "b", "c"]), 4)


def test_no_usable_word() -> None:
    with pytest.raises(ValueError, match="no usable word among 2 examined: 1 without label, 1 out"):
        choose(Words([None, "я"]), 1.0)


def test_training_on_a_benchmark_is_refused(tmp_path: Path, monkeypatch) -> None:
    bench = tmp_path / "benchmark"
    (bench / "SVT").mkdir(parents=True)
    (tmp_path / "train").mkdir()
    (tmp_path / "link").symlink_to(bench / "SVT")
    for spec in (bench / "SVT", bench, tmp_path, tmp_path / "link"):
        with pytest.raises(ValueError, match="must not be trained on"):
            check_sources([f"lmdb:{spec}"], bench)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="folder:benchmark/SVT"):
        check_sources(["synthetic", "folder:benchmark/SVT"], "benchmark")
    check_sources([f"lmdb:{tmp_path / 'train'}", "synthetic:3", "tfds:w"], bench)
    held_out = f"folder:{bench}"
    with pytest.raises(ValueError, match="overlaps with benchmarks"):
        check_sources([f"folder:{bench}?vertical=left"], held_out)
    check_sources([f"folder:{tmp_path / 'train'}", "tfds:w:train"], held_out)
    with pytest.raises(ValueError, match="overlaps with benchmarks"):
        check_sources(["tfds:w@/a"], "tfds:w:train@/a")
    check_sources(["tfds:w@/a", "tfds:w:train@/b"], "tfds:w:test@/a")


def test_a_source_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train.source names 'synthetic' twice"):
        check_sources(["synthetic", "lmdb:a", "synthetic"], tmp_path)
