"""What the public downloads contain: one reader for each form of annotation.

A reader lists the words that an annotation file names. It opens no image; a line that it cannot
understand becomes a fault and does not stop the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rcmstr_jax.data.faults import Fault
from rcmstr_jax.data.folder import numbered_lines

Box = tuple[int, int, int, int]
# `word_1.png, "Tiredness"`; a quote within the word is written \".
_ICDAR_LINE = re.compile(r'\s*(?P<file>[^,"]+?)\s*,\s*"(?P<text>.*)"\s*')
_ESCAPED = re.compile(r"\\([\\\"])")


@dataclass(frozen=True)
class Item:
    """One word of an annotation file.

    Attributes:
      file: image, relative to the source folder as the annotation writes it.
      text: the word.
      key: where it stands in the annotation, for reports.
      box: (left, top, width, height) in pixels where the word is a part of the image.
    """

    file: str
    text: str
    key: str
    box: Box | None = None


Reader = Callable[[Path], Iterator[Item | Fault]]


def _bad(path: Path, key: str, reason: str, detail: str = "") -> Fault:
    return Fault(str(path), key, reason, detail[:100])


def read_icdar(path: Path) -> Iterator[Item | Fault]:
    """ICDAR 2011 to 2015, word recognition: `word_1.png, "Tiredness"` on each line of gt.txt."""
    for key, line in numbered_lines(path):
        match = _ICDAR_LINE.fullmatch(line)
        if match is None:
            yield _bad(path, key, 'line is not FILE, "WORD"', line)
        else:
            yield Item(match["file"], _ESCAPED.sub(r"\1", match["text"]), key)


def read_icdar2003(path: Path) -> Iterator[Item | Fault]:
    """ICDAR 2003, word recognition: `<image file="word/1/1.jpg" tag="self" />` in word.xml."""
    for number, image in enumerate(_xml(path).iter("image"), 1):
        file, text = image.get("file"), image.get("tag")
        if file is None or text is None:
            yield _bad(path, f"image {number}", "image without file or tag")
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
                yield _bad(path, key, "rectangle without x, y, width and height")
                continue
            if name is None or text is None:
                yield _bad(path, key, "rectangle without image or tag")
            else:
                yield Item(name.strip(), text.strip(), key, (x, y, width, height))


def _xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no XML file ({error}); download it again") from error


def read_iiit5k(path: Path) -> Iterator[Item | Fault]:
    """IIIT5K-Words: testdata.mat holds records with ImgName and GroundTruth, lexica beside them."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path)
    except (MatReadError, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path} is no MATLAB file ({error}); download it again") from error
    tables = [
        value
        for name, value in variables.items()
        if not name.startswith("__") and {"ImgName", "GroundTruth"} <= set(value.dtype.names or ())
    ]
    if len(tables) != 1:
        raise ValueError(
            f"{path} holds no table with ImgName and GroundTruth: its variables are"
            f" {sorted(name for name in variables if not name.startswith('__'))}; give testdata.mat"
            " or traindata.mat of IIIT5K-Words"
        )
    for number, row in enumerate(tables[0].ravel(), 1):
        key = f"row {number}"
        if row["ImgName"].size != 1 or row["GroundTruth"].size != 1:
            yield _bad(path, key, "row without ImgName or GroundTruth")
        else:
            yield Item(str(row["ImgName"].item()), str(row["GroundTruth"].item()), key)


def read_cute80(path: Path) -> Iterator[Item | Fault]:
    """CUTE80: `timage/001.jpg RONALDO`, where further columns may follow and are not read."""
    for key, line in numbered_lines(path):
        columns = line.split()
        if len(columns) < 2:
            yield _bad(path, key, "line is not FILE WORD", line)
        else:
            yield Item(columns[0], columns[1], key)


def read_union14m(path: Path) -> Iterator[Item | Fault]:
    """Union14M: annotation.jsonl with `filename` and `text` on each line."""
    for key, line in numbered_lines(path):
        try:
            entry: Any = json.loads(line)
            item = Item(str(entry["filename"]), str(entry["text"]), key)
        except (ValueError, KeyError, TypeError):
            yield _bad(path, key, "line is no JSON object with filename and text", line)
        else:
            yield item


@dataclass(frozen=True)
class Form:
    """A form of download.

    Attributes:
      read: lists the words of an annotation file.
      annotations: patterns of that file's name below the source folder, in order of preference.
    """

    read: Reader
    annotations: tuple[str, ...]

    def find_annotation(self, source: Path) -> Path:
        """The annotation file of a download.

        Raises:
          ValueError: none, or several.
        """
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


FORMS: dict[str, Form] = {
    "icdar": Form(read_icdar, ("gt.txt", "*[gG][tT].txt")),
    "icdar2003": Form(read_icdar2003, ("word.xml",)),
    "iiit5k": Form(read_iiit5k, ("testdata.mat",)),
    "svt": Form(read_svt, ("test.xml",)),
    "cute80": Form(read_cute80, ("*label*.txt", "gt.txt")),
    "union14m": Form(read_union14m, ("annotation.jsonl", "*.jsonl")),
}
