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
        (b"b.PNG Hello\n", r"labels\.tsv, line 1: no tab in 'b\.PNG Hello'"),
        (b"b.PNG\tHello\nx.png\tno\n", r"line 2: there is no image 'x\.png'"),
        (b"b.PNG\tHello\n./b.PNG\tHello\n", "line 2: 'b.PNG' is listed twice"),
        (b"b.PNG\t\xff\xfe\n", "is not UTF-8"),
    ],
)
def test_malformed_labels(folder, table, message) -> None:
    (folder / "labels.tsv").write_bytes(table)
    with pytest.raises(ValueError, match=message):
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
