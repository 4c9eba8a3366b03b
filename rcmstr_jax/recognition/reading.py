"""Reading images that a command names: files, folders, standard input."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rcmstr_jax.data.decode import UndecodableImage, is_vertical, prepare_process, read_size
from rcmstr_jax.data.folder import SUFFIXES
from rcmstr_jax.data.records import TURNS, BadRecord
from rcmstr_jax.recognition.heads import Word
from rcmstr_jax.recognition.recognizer import MAX_BYTES, Recognizer, load_image, read_file

Loaded = TypeVar("Loaded")
STANDARD_INPUT = "-"
VERTICAL = ("off", "left", "right", "auto")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of an image.

    Attributes:
      name: its path, "-" for standard input.
      word: what was read; None where the image cannot be used.
      error: why not.
    """

    name: str
    word: Word | None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; confidences with four decimals."""
        if self.word is None:
            return {"image": self.name, "error": self.error}
        return {
            "image": self.name,
            "text": self.word.text,
            "confidence": round(self.word.confidence, 4),
            "characters": [
                [character, round(confidence, 4)]
                for character, confidence in zip(self.word.text, self.word.characters, strict=True)
            ],
        }


def find_images(paths: Sequence[str]) -> tuple[list[str], int]:
    """The images that paths stand for.

    Args:
      paths: files, which are taken as images whatever their names; folders; or "-" alone.

    Returns:
      Paths in order, those of a folder sorted; and how many other files the folders hold. Links
      that lead out of a folder, pipes and the like are other files; linked folders are not entered.

    Raises:
      ValueError: a path that does not exist, no images, or "-" beside others.
    """
    if not paths or (STANDARD_INPUT in paths and len(paths) > 1):
        raise ValueError("give images, folders of images, or - alone for one on standard input")
    found: list[str] = []
    skipped = 0
    for path in paths:
        if path == STANDARD_INPUT or Path(path).is_file():
            found.append(path)
            continue
        if not Path(path).is_dir():
            raise ValueError(f"there is no image or folder {path}: give existing paths")
        files = sorted(
            os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
        )
        inside = Path(path).resolve()
        images = [
            file
            for file in files
            if Path(file).suffix.lower() in SUFFIXES
            and Path(file).is_file()
            and Path(file).resolve().is_relative_to(inside)
        ]
        found += images
        skipped += len(files) - len(images)
    if not found:
        raise ValueError(
            f"there is no image in {', '.join(paths)} ({skipped} other files): images end in "
            + ", ".join(sorted(SUFFIXES))
        )
    return found, skipped


def read_input() -> bytes:
    """The bytes of an image on standard input.

    Raises:
      UndecodableImage: they do not end.
    """
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UndecodableImage("file too large", f"more than {MAX_BYTES} bytes")
    return data


def read_images(
    recognizer: Recognizer, names: Sequence[str], vertical: str = "off"
) -> Iterator[Answer]:
    """Reads images in batches, decoding in threads; one that cannot be used says why.

    Args:
      vertical: what is done to crops that are much higher than wide, of `VERTICAL`: "left" and
        "right" turn them by a quarter to that side; "auto" reads them upright and turned to both
        sides, and takes the reading with the highest confidence.
    """
    size = recognizer.encoder.image_size

    def decode(data: bytes) -> list[np.ndarray]:
        turns: tuple[str, ...] = (vertical,)
        if vertical == "auto":
            turns = TURNS if data and is_vertical(*read_size(data)) else ("off",)
        return [load_image(data, size, turn) for turn in turns]

    for batch in load_batches(names, recognizer.batch_size, decode):
        words = iter(recognizer.read([image for _, images, _ in batch for image in images or ()]))
        for name, images, error in batch:
            read = [next(words) for _ in images or ()]
            yield Answer(name, max(read, key=lambda word: word.confidence, default=None), error)


def load_batches(
    names: Sequence[str], batch_size: int, decode: Callable[[bytes], Loaded]
) -> Iterator[list[tuple[str, Loaded | None, str]]]:
    """Images in batches, decoded in threads: name, what `decode` makes of it, why there is none.

    Args:
      names: of `find_images`.
      batch_size: images per batch.
      decode: of the bytes of an image; raises `BadRecord` for those that cannot be used.
    """
    prepare_process()

    def load(name: str) -> tuple[str, Loaded | None, str]:
        try:
            return name, decode(read_input() if name == STANDARD_INPUT else read_file(name)), ""
        except BadRecord as error:
            return name, None, str(error)
        except OSError as error:
            return name, None, str(error.strerror)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(names), batch_size):
            yield list(threads.map(load, names[start : start + batch_size]))


def printable(name: str) -> str:
    """A name on one line: control characters and bytes that are no text would end it, or more."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()
