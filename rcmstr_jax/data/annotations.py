"""Lists of labelled images: tables with one line per image, read as a stream.

A line that cannot be understood becomes a fault, which stops no other: `FolderSource` refuses the
table, `prepare` names the line and goes on. No file is held in memory as a whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rcmstr_jax.data.faults import Fault

Corner = tuple[float, float]
Quad = tuple[Corner, Corner, Corner, Corner]
# A line that is longer is cut, and its label is then refused as too long.
_LONGEST_LINE = 1 << 16
# `word_1.png, "Tiredness"`; a quote within the word is written \".
_ICDAR_LINE = re.compile(r'\s*(?P<file>[^,"]+?)\s*,\s*"(?P<text>.*)"\s*')
_ESCAPED = re.compile(r"\\([\\\"])")


@dataclass(frozen=True)
class Item:
    """One word of an annotation file.

    Attributes:
      file: image, relative to the source folder as the annotation writes it.
      text: the word; None where it stands with the image.
      key: where it stands in the annotation, for reports.
      box: (left, top, width, height) in pixels where the word is a part of the image.
      quad: corners (x, y) in pixels, clockwise from the word's own top left, where it is a part
        that is seen at an angle.
      index: of the record, where the source is no folder of files.
    """

    file: str
    text: str | None
    key: str
    box: tuple[int, int, int, int] | None = None
    quad: Quad | None = None
    index: int = 0


Reader = Callable[[Path], Iterator[Item | Fault]]


def bad_line(path: Path, key: str, reason: str, detail: str = "") -> Fault:
    """The fault of a line of an annotation."""
    return Fault(str(path), key, reason, detail[:100])


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """`("line 3", its text)` of every line that is not blank, without its end.

    Raises:
      ValueError: the file is not UTF-8.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            more = line
            while not more.endswith(b"\n") and (more := file.readline(_LONGEST_LINE)):
                pass
            whole = line.endswith(b"\n") or len(line) < _LONGEST_LINE
            try:
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                text = line.decode(encoding, "strict" if whole else "ignore")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number} is not UTF-8 ({error}); save the file as UTF-8"
                ) from error
            if text.strip():
                yield f"line {number}", text.rstrip("\r\n")


def read_tsv(path: Path) -> Iterator[Item | Fault]:
    """`FILE<tab>WORD` on each line."""
    for key, line in numbered_lines(path):
        file, tab, text = line.partition("\t")
        if tab:
            yield Item(file, text, key)
        else:
            yield bad_line(path, key, "no tab; write FILE<tab>WORD", repr(line[:80]))


def read_csv(path: Path) -> Iterator[Item | Fault]:
    """`FILE,WORD` on each line; a word that holds a comma or a quote is quoted.

    A first line whose first column has no ending like a file's is taken as the heading.
    """
    for key, line in numbered_lines(path):
        try:
            columns = next(csv.reader([line], strict=True))
        except csv.Error as error:
            yield bad_line(path, key, "no line of CSV", str(error))
            continue
        if key == "line 1" and not Path(columns[0].strip()).suffix:
            continue
        if len(columns) == 2:
            yield Item(columns[0].strip(), columns[1], key)
        else:
            detail = f"{len(columns)} columns"
            yield bad_line(path, key, "not two columns; quote a word that holds commas", detail)


def read_icdar(path: Path) -> Iterator[Item | Fault]:
    """ICDAR 2011 to 2015, word recognition: `word_1.png, "Tiredness"` on each line of gt.txt."""
    for key, line in numbered_lines(path):
        match = _ICDAR_LINE.fullmatch(line)
        if match is None:
            yield bad_line(path, key, 'line is not FILE, "WORD"', line)
        else:
            yield Item(match["file"], _ESCAPED.sub(r"\1", match["text"]), key)


def read_gt(path: Path) -> Iterator[Item | Fault]:
    """`gt.txt` in either of its forms, told apart by the first line: with tabs, or ICDAR's."""
    _, first = next(numbered_lines(path), ("", ""))
    return read_tsv(path) if "\t" in first else read_icdar(path)


# Tables that a folder of images may hold.
TABLES: dict[str, Reader] = {"labels.tsv": read_tsv, "labels.csv": read_csv, "gt.txt": read_gt}


def find_table(folder: Path) -> Path | None:
    """The table of labels that lies in a folder, or None.

    Raises:
      ValueError: there are several.
    """
    found = [name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds {' and '.join(found)}: keep the one that names the words, and move "
            "the others away"
        )
    return folder / found[0] if found else None
