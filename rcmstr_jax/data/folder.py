"""Folders of word images, with or without labels."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rcmstr_jax.data.annotations import TABLES, find_table
from rcmstr_jax.data.faults import Fault
from rcmstr_jax.data.records import BadRecord, Record, check_index, decode_label

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
# What is larger is no word crop, and no photograph of words either.
MAX_FILE_BYTES = 1 << 26
_MAX_TEXT_BYTES = 1 << 16


class FolderSource:
    """The images in and below a folder, in the order of their paths.

    Labels are those of a table in the folder, UTF-8 with one line per image and its path relative
    to the folder: `labels.tsv` (path, tab, word), `labels.csv` (path, comma, word) or `gt.txt`
    (the first form, or `path, "word"`). Without a table, the word of `a.jpg` is what `a.txt` beside
    it holds. Images without a line or file have no label.

    Attributes:
      path: the folder.
      name: "folder:" and the path.
      labelled: whether there are labels, and they are read.
    """

    def __init__(self, path: str | os.PathLike[str], *, labels: bool = True) -> None:
        """Lists the folder.

        Args:
          path: the folder.
          labels: whether to read labels where there are some.

        Raises:
          ValueError: no such folder, no images, two tables of labels, or a line of the table that
            is malformed, repeated or names no image.
        """
        self.path = Path(path)
        self.name = f"folder:{self.path}"
        if not self.path.is_dir():
            raise ValueError(
                f"there is no folder of images at {self.path}; give an existing folder"
            )
        found = sorted(files_below(self.path))
        self.files = [file for file in found if PurePosixPath(file).suffix.lower() in SUFFIXES]
        if not self.files:
            raise ValueError(
                f"{self.path} holds no images ({', '.join(sorted(SUFFIXES))}); "
                "give a folder of images (LMDBs are read with lmdb:PATH)"
            )
        table = find_table(self.path) if labels else None
        self._texts = _read_labels(table, self.files) if table else {}
        beside = (
            {file for file in found if file.endswith(".txt")} if labels and not table else set()
        )
        self._beside = {file for file in self.files if _text_file(file) in beside}
        self.labelled = bool(table or self._beside)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        text, image = self._read(index, MAX_FILE_BYTES)
        return Record(image, text, self.name, self.files[index])

    def label(self, index: int) -> str | None:
        """See `label_of`; the image is opened and not read."""
        return self._read(index, 0)[0]

    def _read(self, index: int, wanted: int) -> tuple[str | None, bytes]:
        file = self.files[check_index(index, len(self), self.name)]
        try:
            text = self._texts.get(file)
            if file in self._beside:
                word = read_file(self.path / _text_file(file), _MAX_TEXT_BYTES)
                text = decode_label(word.removeprefix(b"\xef\xbb\xbf").strip(), self.name, file)
            return text, read_file(self.path / file, wanted=wanted)
        except BadRecord as error:
            error.source, error.key = self.name, file
            raise


def files_below(root: Path) -> Iterator[str]:
    """Paths relative to `root` of all files in and below it; links are followed.

    A folder that can be reached in several ways, as by a link to one above it, is entered once.
    """
    entered: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        below = Path(folder).relative_to(root)
        yield from ((below / file).as_posix() for file in files)


def read_file(
    path: str | os.PathLike[str], limit: int = MAX_FILE_BYTES, wanted: int | None = None
) -> bytes:
    """The bytes of a regular file, the first `wanted` of them where given.

    Raises:
      BadRecord: it cannot be read, is a pipe or device, or has more than `limit` bytes.
    """
    try:
        # Without waiting for a writer, in the case of a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadRecord("not a regular file")
            if status.st_size > limit:
                raise BadRecord("file too large", f"{status.st_size} bytes")
            return file.read(limit if wanted is None else wanted)
    except OSError as error:
        raise BadRecord("file cannot be read", str(error.strerror)) from error


def _text_file(file: str) -> str:
    return PurePosixPath(file).with_suffix(".txt").as_posix()


def _read_labels(table: Path, files: list[str]) -> dict[str, str]:
    known = set(files)
    texts: dict[str, str] = {}
    for item in TABLES[table.name](table):
        if isinstance(item, Fault):
            raise ValueError(f"{table}, {item.key}: {item.reason} ({item.detail})")
        file = PurePosixPath(item.file).as_posix()
        if file not in known:
            raise ValueError(f"{table}, {item.key}: there is no image {file!r} in {table.parent}")
        if file in texts:
            raise ValueError(f"{table}, {item.key}: {file!r} is listed twice")
        texts[file] = decode_label((item.text or "").encode(), str(table), item.key)
    return texts
