from __future__ import annotations

import pytest

from rcmstr_jax.data.folder import FolderSource
from rcmstr_jax.data.records import BadRecord


@pytest.fixture
def folder(tmp_path, encode):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.PNG").write_bytes(encode(1))
    (tmp_path / "a.jpg").write_bytes(encode(2, "JPEG"))
    (tmp_path / "deep" / "c.webp").write_bytes(encode(3, "WEBP"))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_without_labels(folder, encode) -> None:
    source = FolderSource(folder)
    assert [source[i].key for i in range(len(source))] == ["a.jpg", "b.PNG", "deep/c.webp"]
    assert not source.labelled and source[0].text is None
    assert source[1].image == encode(1) and source[1].source == f"folder:{folder}"


def test_with_labels(folder) -> None:
    (folder / "labels.tsv").write_text(
        "b.PNG\tHello\n\ndeep/c.webp\tgr\u00fc\u00df dich\n", encoding="utf-8"
    )
    source = FolderSource(folder)
    texts = [source[i].text for i in range(3)]
    assert source.labelled and texts == [None, "Hello", "gr\u00fc\u00df dich"]
    assert FolderSource(folder, labels=False)[1].text is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"b.PNG Hello\n", r"labels\.tsv, line 1: no tab; write FILE<tab>WORD \('b\.PNG Hello'\)"),
        (b"b.PNG\tHello\nx.png\tno\n", r"line 2: there is no image 'x\.png'"),
        (b"b.PNG\tHello\n./b.PNG\tHello\n", "line 2: 'b.PNG' is listed twice"),
        (b"b.PNG\t\xff\xfe\n", "is not UTF-8"),
    ],
)
def test_malformed_labels(folder, table, message) -> None:
    (folder / "labels.tsv").write_bytes(table)
    with pytest.raises(ValueError, match=message):
        FolderSource(folder)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("labels.csv", 'file,word\nb.PNG,"Hello, you"\ndeep/c.webp,gr\u00fc\u00df\n'),
        ("labels.csv", '\ufeffb.PNG,"Hello, you"\r\ndeep/c.webp,gr\u00fc\u00df\r\n'),
        ("gt.txt", "b.PNG\tHello, you\ndeep/c.webp\tgr\u00fc\u00df\n"),
        ("gt.txt", '\ufeffb.PNG, "Hello, you"\r\ndeep/c.webp, "gr\u00fc\u00df"\r\n'),
    ],
)
def test_labels_in_other_tables(folder, name, table) -> None:
    (folder / name).write_text(table, encoding="utf-8")
    source = FolderSource(folder)
    assert source.labelled
    assert [source[i].text for i in range(3)] == [None, "Hello, you", "gr\u00fc\u00df"]


def test_a_text_file_beside_each_image(folder) -> None:
    (folder / "b.txt").write_text("\ufeff Hello \r\n", encoding="utf-8")
    (folder / "deep" / "c.txt").write_bytes(b"\xff\xfe")
    source = FolderSource(folder)
    assert source.labelled and [source[i].text for i in (0, 1)] == [None, "Hello"]
    with pytest.raises(BadRecord, match="label is not UTF-8") as error:
        source[2]
    assert error.value.key == "deep/c.webp"
    assert not FolderSource(folder, labels=False).labelled
    (folder / "labels.tsv").write_text("a.jpg\tword\n")
    assert [FolderSource(folder)[i].text for i in (0, 1)] == ["word", None]


def test_tables_that_cannot_be_meant(folder) -> None:
    (folder / "labels.csv").write_text("b.PNG,two,three\n")
    with pytest.raises(ValueError, match=r"labels.csv, line 1: not two columns; quote a word"):
        FolderSource(folder)
    (folder / "gt.txt").write_text("b.PNG Hello\n")
    with pytest.raises(ValueError, match=r"holds labels.csv and gt.txt: keep the one"):
        FolderSource(folder)
    (folder / "labels.csv").unlink()
    with pytest.raises(ValueError, match=r'gt.txt, line 1: line is not FILE, "WORD"'):
        FolderSource(folder)
    (folder / "gt.txt").write_text("b.PNG\ta\x07b\n")
    with pytest.raises(ValueError, match="control characters in the label"):
        FolderSource(folder)


def test_errors(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no folder of images at .*nowhere"):
        FolderSource(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none holds no images .*lmdb:PATH"):
        FolderSource(tmp_path / "none")
    source = FolderSource(folder)
    (folder / "a.jpg").unlink()
    with pytest.raises(BadRecord, match="file cannot be read") as error:
        source[0]
    assert error.value.key == "a.jpg"
