"""What the public downloads contain: one reader for each form of annotation.

A reader lists the words that an annotation names, as a stream. It opens no image; a line that it
cannot understand becomes a fault and does not stop the others. Nothing in a file is executed:
MATLAB files and XML are parsed for numbers and texts alone.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rcmstr_jax.data.annotations import (
    TABLES,
    Item,
    Reader,
    bad_line,
    find_table,
    numbered_lines,
    read_icdar,
)
from rcmstr_jax.data.faults import Fault
from rcmstr_jax.data.folder import FolderSource
from rcmstr_jax.data.sources import open_source

# `./2425/1/115_Lube_45484.jpg 45484`: number, word, number in the lexicon.
_MJSYNTH_FILE = re.compile(r"(?:.*/)?\d+_(?P<text>[^/]*)_\d+\.\w+")
# A compressed MATLAB file may grow so many times when it is read; text and boxes do by 3 to 10.
_MOST_GROWTH = 50
_ALWAYS_ALLOWED = 1 << 26
_COMPRESSED = 15


def read_icdar2003(path: Path) -> Iterator[Item | Fault]:
    """ICDAR 2003, word recognition: `<image file="word/1/1.jpg" tag="self" />` in word.xml."""
    for number, image in enumerate(_xml(path).iter("image"), 1):
        file, text = image.get("file"), image.get("tag")
        if file is None or text is None:
            yield bad_line(path, f"image {number}", "image without file or tag")
        else:
            yield Item(file, text, f"image {number}")


def read_svt(path: Path) -> Iterator[Item | Fault]:
    """Street View Text: test.xml names rectangles in photographs, which are cut out."""
    for image in _xml(path).iter("image"):
        name = image.findtext("imageName")
        for number, rectangle in enumerate(image.iter("taggedRectangle"), 1):
            key = f"{name} rectangle {number}"
            text = rectangle.findtext("tag")
            try:
                x, y, width, height = (
                    int(rectangle.attrib[side]) for side in ("x", "y", "width", "height")
                )
            except (KeyError, ValueError):
                yield bad_line(path, key, "rectangle without x, y, width and height")
                continue
            if name is None or text is None:
                yield bad_line(path, key, "rectangle without image or tag")
            else:
                yield Item(name.strip(), text.strip(), key, (x, y, width, height))


def _xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # encodings nobody knows
        raise ValueError(f"{path} is no XML file ({error}); download it again") from error


def read_iiit5k(path: Path) -> Iterator[Item | Fault]:
    """IIIT5K-Words: testdata.mat holds records with ImgName and GroundTruth, lexica beside them."""
    variables = _matlab(path)
    tables = [
        value
        for value in variables.values()
        if {"ImgName", "GroundTruth"} <= set(getattr(value, "dtype", np.dtype(int)).names or ())
    ]
    if len(tables) != 1:
        raise ValueError(
            f"{path} holds no table with ImgName and GroundTruth: its variables are"
            f" {sorted(variables)}; give testdata.mat or traindata.mat of IIIT5K-Words"
        )
    for number, row in enumerate(tables[0].ravel(), 1):
        key = f"row {number}"
        if row["ImgName"].size != 1 or row["GroundTruth"].size != 1:
            yield bad_line(path, key, "row without ImgName or GroundTruth")
        else:
            yield Item(str(row["ImgName"].item()), str(row["GroundTruth"].item()), key)


def read_synthtext(path: Path) -> Iterator[Item | Fault]:
    """SynthText: gt.mat holds `imnames`, corners of words (2, 4, n) in `wordBB`, and `txt`.

    A text of `txt` is a line or a paragraph; its words, between white space, have the corners in
    their order. The words are cut out of the pictures as they lie there, at an angle.
    """
    names = ("imnames", "wordBB", "txt")
    variables = _matlab(path, names)
    if not set(names) <= set(variables):
        raise ValueError(
            f"{path} lacks {', '.join(sorted(set(names) - set(variables)))}; give gt.mat of"
            " SynthText"
        )
    images, corners, texts = (variables[name].ravel() for name in names)
    if not len(images) == len(corners) == len(texts):
        raise ValueError(
            f"{path}: {len(images)} imnames, {len(corners)} wordBB and {len(texts)} txt differ;"
            " download it again"
        )
    for image, boxes, lines in zip(images, corners, texts, strict=True):
        file = str(np.ravel(image)[0]) if np.size(image) else ""
        words = " ".join(str(line) for line in np.ravel(lines)).split()
        boxes = np.asarray(boxes)
        boxes = boxes[..., None] if boxes.ndim == 2 else boxes
        if boxes.shape != (2, 4, len(words)) or boxes.dtype.kind not in "iuf":
            detail = f"{len(words)} words, corners {boxes.shape}"
            yield bad_line(path, file, "words and corners differ", detail)
            continue
        for number, (word, box) in enumerate(zip(words, boxes.transpose(2, 1, 0), strict=True), 1):
            a, b, c, d = ((float(x), float(y)) for x, y in box)
            yield Item(file, word, f"{file} word {number}", quad=(a, b, c, d))


def _matlab(path: Path, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Variables of a MATLAB file up to version 7.

    Raises:
      ValueError: it is none, or would grow beyond all measure when decompressed.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        _check_growth(path)
        variables = loadmat(path, variable_names=names)
    except (
        MatReadError, OSError, ValueError, TypeError, LookupError, ArithmeticError, zlib.error,
        NotImplementedError, MemoryError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} is no MATLAB file ({error}); download it again") from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _check_growth(path: Path) -> None:
    """Decompresses the elements of a MATLAB 5 file piece by piece, and counts the bytes."""
    allowed = _ALWAYS_ALLOWED + _MOST_GROWTH * path.stat().st_size
    with path.open("rb") as file:
        order = "big" if file.read(128)[126:] == b"MI" else "little"
        while len(tag := file.read(8)) == 8:
            kind, length = (int.from_bytes(tag[i : i + 4], order) for i in (0, 4))  # type: ignore[arg-type]
            end = file.tell() + length
            if not 1 <= kind <= 18:
                return  # of version 4, or no MATLAB file
            if kind == _COMPRESSED:
                inflate = zlib.decompressobj()
                while file.tell() < end and (piece := file.read(min(1 << 16, end - file.tell()))):
                    while piece and allowed >= 0:
                        allowed -= len(inflate.decompress(piece, 1 << 24))
                        piece = inflate.unconsumed_tail
                    if allowed < 0:
                        raise ValueError("it decompresses to more than fifty times its size")
            file.seek(min(end, os.fstat(file.fileno()).st_size))


def read_cute80(path: Path) -> Iterator[Item | Fault]:
    """CUTE80: `timage/001.jpg RONALDO`, where further columns may follow and are not read."""
    for key, line in numbered_lines(path):
        columns = line.split()
        if len(columns) < 2:
            yield bad_line(path, key, "line is not FILE WORD", line)
        else:
            yield Item(columns[0], columns[1], key)


def read_union14m(path: Path) -> Iterator[Item | Fault]:
    """Union14M: annotation.jsonl with `filename` and `text` on each line."""
    for key, line in numbered_lines(path):
        try:
            entry: Any = json.loads(line)
            item = Item(str(entry["filename"]), str(entry["text"]), key)
        except (ValueError, KeyError, TypeError, RecursionError):
            yield bad_line(path, key, "line is no JSON object with filename and text", line)
        else:
            yield item


def read_mjsynth(path: Path) -> Iterator[Item | Fault]:
    """MJSynth (Synth90k): `./2425/1/115_Lube_45484.jpg 45484` on each line of annotation_*.txt."""
    for key, line in numbered_lines(path):
        file = line.split()[0]
        match = _MJSYNTH_FILE.fullmatch(file)
        if match is None:
            yield bad_line(path, key, "line does not begin with NUMBER_WORD_NUMBER.jpg", line)
        else:
            yield Item(file, match["text"], key)


def read_folder(folder: Path) -> Iterator[Item | Fault]:
    """A folder of images as `folder:PATH` takes it; what has no label, while others have, is named.

    Faulty lines of its table are named too, where `folder:PATH` refuses the table.
    """
    table = find_table(folder)
    source = FolderSource(folder, labels=table is None)
    if table is None:
        yield from (Item(file, None, file, index=i) for i, file in enumerate(source.files))
        return
    listed: set[str] = set()
    for item in TABLES[table.name](table):
        if not isinstance(item, Fault):
            file = PurePosixPath(item.file).as_posix()
            if file in listed:
                item = Fault(str(table), item.key, "image is listed twice", file[:100])
            listed.add(file)
        yield item
    for file in source.files:
        if file not in listed:
            yield Fault(file, table.name, "no label")


def read_lmdb(folder: Path) -> Iterator[Item | Fault]:
    """One scene-text LMDB or several, as `lmdb:PATH` takes them."""
    for index in range(len(open_source(f"lmdb:{folder}"))):
        yield Item(f"record {index + 1}", None, f"record {index + 1}", index=index)


@dataclass(frozen=True)
class Form:
    """A form of download.

    Attributes:
      read: lists the words of an annotation file, or of the source folder where there is none.
      annotations: patterns of that file's name below the source folder, in order of preference.
    """

    read: Reader
    annotations: tuple[str, ...] = ()

    def find_annotation(self, source: Path) -> Path:
        """The annotation file of a download; the download itself in the forms that need none.

        Raises:
          ValueError: none, or several.
        """
        if not self.annotations:
            return source
        for pattern in self.annotations:
            found = sorted(source.glob(pattern))
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(file.name for file in found)
                raise ValueError(f"--source={source} holds {names}: choose one by --annotation")
        raise ValueError(
            f"--source={source} holds no annotation ({', '.join(self.annotations)}): give the"
            " folder that does, or name the file by --annotation"
        )


_MJSYNTH_FOLDER = "mnt/ramdisk/max/90kDICT32px"
FORMS: dict[str, Form] = {
    "folder": Form(read_folder),
    "icdar": Form(read_icdar, ("gt.txt", "*[gG][tT].txt")),
    "icdar2003": Form(read_icdar2003, ("word.xml",)),
    "iiit5k": Form(read_iiit5k, ("testdata.mat",)),
    "svt": Form(read_svt, ("test.xml",)),
    "cute80": Form(read_cute80, ("*label*.txt", "gt.txt")),
    "union14m": Form(read_union14m, ("annotation.jsonl", "*.jsonl")),
    "mjsynth": Form(
        read_mjsynth, ("annotation_train.txt", f"{_MJSYNTH_FOLDER}/annotation_train.txt")
    ),
    "synthtext": Form(read_synthtext, ("gt.mat", "SynthText/gt.mat")),
    "lmdb": Form(read_lmdb),
}
