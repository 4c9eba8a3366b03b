"""Downloads to an LMDB or a TFDS dataset: counted, checked, and written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from rcmstr_jax.data.benchmarks import ACCEPTED_SIZES, RULES, passes, registered_name
from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.data.faults import Fault, count_reasons
from rcmstr_jax.data.formats import check_format, write_words
from rcmstr_jax.data.prepare.forms import FORMS, Box, Item
from rcmstr_jax.data.records import BadRecord, Record
from rcmstr_jax.runtime.files import whole_folder, write_json

NOTE = "prepare.json"
# The check decodes to the height of the networks; nothing of it is kept.
_CHECKED_SIZE = (32, 100)
# Annotations give paths below the source or below a folder that holds it.
_PARENTS_TRIED = 3


@dataclass
class Counts:
    """What became of the words of an annotation.

    Attributes:
      listed: words and faulty lines in the annotation.
      filtered: words that the filter leaves out.
      written: words in the new set.
      faults: words that cannot be used, each with its reason.
    """

    listed: int = 0
    filtered: int = 0
    written: int = 0
    faults: list[Fault] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """Number of faults per reason."""
        return count_reasons(self.faults)


def prepare(
    form: str,
    source: str | Path,
    out: str | Path,
    *,
    annotation: str | None = None,
    rule: str = "all",
    expect: int | None = None,
    kind: str = "lmdb",
) -> Counts:
    """Converts one split of a download.

    Args:
      form: a key of `forms.FORMS`.
      source: folder of the download.
      out: folder to make; it must not exist. `prepare.json` with the counts lies in it.
      annotation: annotation file, relative to `source` or not; found by its name if None.
      rule: a key of `benchmarks.RULES`, applied to the labels.
      expect: number of words that must result.
      kind: "lmdb" or "tfds".

    Returns:
      The counts. Faulty words are left out.

    Raises:
      ValueError: an impossible argument, no usable word, or another number than expected. Then
        nothing has been written.
    """
    source, out = Path(source), Path(out)
    if form not in FORMS:
        raise ValueError(f"--from={form} is unknown; choose one of {', '.join(FORMS)}")
    if rule not in RULES:
        raise ValueError(f"--filter={rule} is unknown; choose one of {', '.join(RULES)}")
    check_format(kind)
    if not source.is_dir():
        raise ValueError(f"--source={source}: there is no such folder")
    if out.exists():
        raise ValueError(f"--out={out} exists; delete it, or name another folder")
    path = FORMS[form].find_annotation(source) if annotation is None else source / annotation
    if not path.is_file():
        raise ValueError(f"--annotation={annotation}: there is no {path}")
    items = list(FORMS[form].read(path))
    counts = Counts(listed=len(items))
    with whole_folder(out) as draft:
        try:
            write_words(draft, _usable(items, source, rule, counts), kind, "WordCrops")
        except ValueError as error:
            if counts.written:
                raise
            raise ValueError(
                f"{path}: no usable word among {counts.listed} ({counts.filtered} filtered by"
                f" {rule}, faults: {counts.reasons()})"
            ) from error
        if expect is not None and counts.written != expect:
            raise ValueError(
                f"--expect={expect}, but {counts.written} of {counts.listed} words remain"
                f" ({counts.filtered} filtered by {rule}, faults: {counts.reasons()}); nothing was"
                " written"
            )
        note = describe(counts, out) | {"form": form, "annotation": str(path), "filter": rule}
        write_json(draft / NOTE, note)
    return counts


def describe(counts: Counts, out: str | Path) -> dict[str, Any]:
    """Counts, faults, and whether the number is one under which the set is published.

    `accepted` is None where the folder's name is no registered one or the set has no fixed size.
    """
    sizes = ACCEPTED_SIZES.get(registered_name(Path(out).name) or "", ())
    return {
        "listed": counts.listed,
        "filtered": counts.filtered,
        "written": counts.written,
        "faults_by_reason": counts.reasons(),
        "faults": [fault._asdict() for fault in counts.faults],
        "accepted_sizes": list(sizes),
        "accepted": counts.written in sizes if sizes else None,
    }


def _usable(
    items: Sequence[Item | Fault], source: Path, rule: str, counts: Counts
) -> Iterator[Record]:
    """The usable words in the order of the annotation; keeps the counts."""
    for item in items:
        if isinstance(item, Fault):
            counts.faults.append(item)
            continue
        if item.text and not passes(rule, item.text):
            counts.filtered += 1
            continue
        try:
            image = _image(item, source)
        except BadRecord as error:
            counts.faults.append(Fault(item.file, item.key, error.reason, error.detail))
            continue
        counts.written += 1
        yield Record(image, item.text, str(source), item.key)


def _image(item: Item, source: Path) -> bytes:
    """The encoded word: the file as it is, or the rectangle cut out of it as a PNG.

    Raises:
      BadRecord: no label, no such file, or an image that cannot be decoded.
    """
    if not item.text:
        raise BadRecord("empty label")
    for folder in (source, *list(source.resolve().parents)[:_PARENTS_TRIED]):
        file = folder / item.file
        if file.is_file():
            break
    else:
        raise BadRecord("missing image file")
    encoded = file.read_bytes()
    if item.box is None:
        decode_image(encoded, _CHECKED_SIZE)
        return encoded
    return _cut(encoded, item.box)


def _cut(encoded: bytes, box: Box) -> bytes:
    left, top, width, height = box
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            right, bottom = min(left + width, image.width), min(top + height, image.height)
            left, top = max(left, 0), max(top, 0)
            if right <= left or bottom <= top:
                raise BadRecord("rectangle outside the image", f"{box} of {image.size}")
            word = image.convert("RGB").crop((left, top, right, bottom))
    except (OSError, Image.DecompressionBombError) as error:
        raise BadRecord("image cannot be decoded", str(error)) from error
    buffer = io.BytesIO()
    word.save(buffer, "PNG")
    return buffer.getvalue()
