"""Writes rendered words to disk, with worker processes: LMDB, TFDS, contact sheet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL

from rcmstr_jax.data.formats import check_format, write_words
from rcmstr_jax.data.records import Record
from rcmstr_jax.data.synthetic.source import SyntheticSource
from rcmstr_jax.data.workers import in_order, parse_part
from rcmstr_jax.runtime.files import whole_folder, write_json

_CHUNK = 256

_worker_source: SyntheticSource | None = None


def check_target(out: str, num: int, form: str, overwrite: bool) -> Path:
    """Checks what `export_words` is asked for, before anything is rendered.

    Raises:
      ValueError: naming the flag, its value and the remedy.
    """
    check_format(form)
    if num < 1:
        raise ValueError(f"--num={num}: give at least 1")
    if not out:
        raise ValueError("--out is empty; name the folder to write")
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out={out} is a file; name a folder that does not exist yet")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise ValueError(f"--out={out} exists; add --overwrite, or name another folder")
        ours = (path / "render.json", path / "data.mdb", *path.glob("*/*/dataset_info.json"))
        if not any(file.exists() for file in ours):
            raise ValueError(
                f"--out={out} holds something other than rendered words, which --overwrite does "
                "not delete; name another folder"
            )
    return path


def export_words(
    source: SyntheticSource,
    out: str,
    *,
    num: int,
    form: str = "lmdb",
    workers: int = 0,
    part: str = "",
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes the first words of a source; the folder appears when it is complete.

    Beside the data lies `render.json`: seed, options, faces and package versions.

    Args:
      source: the words.
      out: folder to write.
      num: number of words.
      form: "lmdb" or "tfds".
      workers: processes that render; 0 renders in this one. The result is the same.
      part: see `workers.parse_part`: a stretch of the words, into `out/part-0000I-of-0000N`. The
        parts one after the other are the whole.
      overwrite: replace rendered words that lie there.
      progress: called with the number of words rendered so far.

    Returns:
      The number of words written.

    Raises:
      ValueError: as `check_target`, or `num` exceeds the length of the source.
    """
    number, parts = parse_part(part)
    if parts > max(num, 1):
        raise ValueError(f"--part={part} with --num={num}: give at most a part per word")
    if parts > 1:
        out = str(Path(out) / f"part-{number:05d}-of-{parts:05d}")
    path = check_target(out, num, form, overwrite)
    if num > len(source):
        raise ValueError(f"--num={num} exceeds the source's length {len(source)}")
    words = range(num * (number - 1) // parts, num * number // parts)
    with whole_folder(path) as draft:
        count = write_words(draft, render_many(source, words, workers, progress), form)
        write_json(draft / "render.json", describe(source, num) | {"part": part})
    return count


def render_many(
    source: SyntheticSource,
    words: range,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """The records of a stretch in order, rendered by worker processes or, with 0, in this one."""
    spans = [words[start : start + _CHUNK] for start in range(0, len(words), _CHUNK)]
    rendered = in_order(
        _render_span, spans, min(workers, len(spans)), start=_start_worker, arguments=(source,)
    )
    for span, chunk in zip(spans, rendered, strict=True):
        yield from chunk
        if progress is not None:
            progress(span.stop - words.start)


def describe(source: SyntheticSource, num: int) -> dict[str, object]:
    """What is needed to render the same words again."""
    return {
        "num": num,
        "seed": source.seed,
        "options": dataclasses.asdict(source.options),
        "faces": [f"{Path(face.path).name} ({face.family})" for face in source.faces],
        "versions": {
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "pillow": PIL.__version__,
        },
    }


def _start_worker(source: SyntheticSource) -> None:
    global _worker_source
    cv2.setNumThreads(1)  # the processes share the cores already
    _worker_source = source


def _render_span(span: range) -> list[Record]:
    assert _worker_source is not None
    return [_worker_source[index] for index in span]
