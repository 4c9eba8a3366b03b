"""One record type, and the random-access sources that hold records.

A source is anything with a length, `source[index] -> Record` and a name. Sources are sent to
worker processes by pickling, so one that holds a file handle reopens it there.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import unicodedata
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rcmstr_jax.runtime.errors import RunFailed

# A source that is this long is not gone through once.
ENDLESS = 2**40
# A label of more bytes is a mistake, whatever the script.
MAX_LABEL_BYTES = 1000
# What is done to crops that are higher than wide: `decode.decode_image`.
TURNS = ("off", "left", "right")


@dataclass(frozen=True)
class Record:
    """One word image as it lies on disk.

    Attributes:
      image: encoded image (JPEG, PNG, ... bytes), not yet decoded.
      text: the word, or None where the set has no labels.
      source: name of the source that holds the record.
      key: where the record lies in that source (an LMDB key, a file name); may be empty.
      turn: how the image is turned if it is much higher than wide, of `TURNS`.
    """

    image: bytes
    text: str | None
    source: str
    key: str = ""
    turn: str = "off"


class BadRecord(ValueError):
    """A record that cannot be used: its bytes, its label or its image are damaged.

    Attributes:
      reason: short and free of numbers, so that reports can count by it ("truncated JPEG").
      detail: what else is known ("40000 x 40000 pixels"); may be empty.
      source: name of the source, where the source itself found the damage; else None.
      key: key in that source; else None.
      text: the word, where it alone could be read; else None.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        source: str | None = None,
        key: str | None = None,
        text: str | None = None,
    ) -> None:
        self.reason = reason
        self.detail = detail
        self.source = source
        self.key = key
        self.text = text
        place = f"{source} {key}: " if source is not None else ""
        super().__init__(f"{place}{reason}" + (f" ({detail})" if detail else ""))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only fields do not survive the default pickling between worker processes.
        kept = functools.partial(type(self), source=self.source, key=self.key, text=self.text)
        return (kept, (self.reason, self.detail))


def decode_label(label: bytes, source: str, key: str) -> str:
    """The word that bytes spell.

    Raises:
      BadRecord: they are not UTF-8, more than `MAX_LABEL_BYTES`, or hold control characters
        (NUL among them) other than white space around the word.
    """
    if len(label) > MAX_LABEL_BYTES:
        raise BadRecord("label too long", f"{len(label)} bytes", source=source, key=key)
    try:
        text = label.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord("label is not UTF-8", str(error), source=source, key=key) from error
    if not text.isprintable():
        control = {c for c in text.strip() if unicodedata.category(c) in ("Cc", "Zl", "Zp")}
        if control:
            detail = ascii(sorted(control))
            raise BadRecord("control characters in the label", detail, source=source, key=key)
    return text


class DataLost(RunFailed):
    """Data that could be read when a run began, and no longer can; the message is for its user."""


@runtime_checkable
class RecordSource(Protocol):
    """Random access to records; `source[index]` may raise `BadRecord`."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


def is_endless(source: Sized) -> bool:
    """Whether a source sets its own order and never ends (the renderer, a mixture).

    Such a source is read at growing positions as they come; a finite one is shuffled by epochs.
    """
    return bool(getattr(source, "endless", False)) or len(source) >= ENDLESS


def label_of(source: RecordSource, index: int) -> str | None:
    """`source[index].text`, without reading the image where the source has a way.

    A source that has it gives `label(index)`, which refuses the same records.

    Raises:
      BadRecord: as `source[index]` does.
    """
    find = getattr(source, "label", None)
    return source[index].text if find is None else find(index)


def check_index(index: int, size: int, name: str) -> int:
    """Returns `index`, or raises IndexError if it is outside `[0, size)` (no negative indices)."""
    if not 0 <= index < size:
        raise IndexError(f"index {index} is outside source {name!r}, which has {size} records")
    return index


class ConcatSource:
    """Several finite sources one after the other, as one.

    Attributes:
      components: the sources in order.
      name: "+"-joined names of the components.
    """

    def __init__(self, components: Sequence[RecordSource], name: str | None = None) -> None:
        if not components:
            raise ValueError("ConcatSource needs at least one source; got none")
        endless = [source.name for source in components if is_endless(source)]
        if endless:
            raise ValueError(
                f"source {endless[0]!r} never ends, so nothing can follow it; "
                "give weights to mix it with the others"
            )
        self.components = tuple(components)
        self.name = name if name is not None else "+".join(part.name for part in components)
        self._ends = list(itertools.accumulate(map(len, self.components)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        part, within = self._locate(index)
        return part[within]

    def label(self, index: int) -> str | None:
        """See `label_of`."""
        return label_of(*self._locate(index))

    def _locate(self, index: int) -> tuple[RecordSource, int]:
        check_index(index, len(self), self.name)
        part = bisect.bisect_right(self._ends, index)
        return self.components[part], index - (self._ends[part - 1] if part else 0)


class TurnedSource:
    """A source whose crops that are much higher than wide are turned by a quarter.

    Attributes:
      source: the records as they are.
      name: its name, and how it is turned.
    """

    def __init__(self, source: RecordSource, turn: str, name: str) -> None:
        self.source = source
        self.name = name
        self.labelled = getattr(source, "labelled", False)
        self._turn = turn

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(self.source[index], turn=self._turn)

    def label(self, index: int) -> str | None:
        """See `label_of`."""
        return label_of(self.source, index)
