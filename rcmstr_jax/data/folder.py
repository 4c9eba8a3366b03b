"""Folders of word images, with or without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rcmstr_jax.data.records import BadRecord, Record, check_index

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
LABELS = "labels.tsv"


class FolderSource:
    """The images in and below a folder, in the order of their paths.

    `labels.tsv` in the folder gives the words: UTF-8, one line per image, the path relative to
    the folder, a tab, the word. Images that it does not list have no label.

    Attributes:
      path: the folder.
      name: "folder:" and the path.
      labelled: whether there is a `labels.tsv`.
    """

    def __init__(self, path: str | os.PathLike[str], *, labels: bool = True) -> None:
        """Lists the folder.

        Args:
          path: the folder.
          labels: whether to read `labels.tsv` where there is one.

        Raises:
          ValueError: no such folder, no images, or a line of `labels.tsv` that is malformed,
            repeated or names no image.
        """
        self.path = Path(path)
        self.name = f"folder:{self.path}"
        if not self.path.is_dir():
            raise ValueError(
                f"there is no folder of images at {self.path}; give an existing folder"
            )
        self._files = sorted(
            (Path(folder) / file).relative_to(self.path).as_posix()
            for folder, _, files in os.walk(self.path, followlinks=True)
            for file in files
            if Path(file).suffix.lower() in SUFFIXES
        )
        if not self._files:
            raise ValueError(
                f"{self.path} holds no images ({', '.join(sorted(SUFFIXES))}); "
                "give a folder of images (LMDBs are read with lmdb:PATH)"
            )
        table = self.path / LABELS
        self.labelled = labels and table.exists()
        self._texts = _read_labels(table, self._files) if self.labelled else {}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        file = self._files[check_index(index, len(self), self.name)]
        try:
            image = (self.path / file).read_bytes()
        except OSError as error:
            raise BadRecord(
                "file cannot be read", str(error.strerror), source=self.name, key=file
            ) from error
        return Record(image, self._texts.get(file), self.name, file)


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """`("line 3", its text)` of every line that is not blank.

    Raises:
      ValueError: the file is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"line {number}", line


def _read_labels(table: Path, files: list[str]) -> dict[str, str]:
    known = set(files)
    texts: dict[str, str] = {}
    for place, line in numbered_lines(table):
        file, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(f"{table}, {place}: no tab in {line!r}; write FILE<tab>WORD")
        file = Path(file).as_posix()
        if file not in known:
            raise ValueError(f"{table}, {place}: there is no image {file!r} in {table.parent}")
        if file in texts:
            raise ValueError(f"{table}, {place}: {file!r} is listed twice")
        texts[file] = text
    return texts
