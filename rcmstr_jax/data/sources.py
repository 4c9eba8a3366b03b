"""Opens record sources by their specs, which are what configs and command lines hold.

| spec | what |
| --- | --- |
| `lmdb:PATH` | every scene-text LMDB at or below PATH, one after the other |
| `folder:PATH` | the images below PATH, with labels in a table or beside them (`FolderSource`) |
| `tfds:NAME[:SPLIT][@DATA_DIR]` | a prepared TFDS builder; split `train` by default |
| `synthetic[:SEED[:COUNT]]` | rendered words; the first COUNT of them, or endless |

`?vertical=left` (or `right`) at the end turns crops that are much higher than wide to that side.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rcmstr_jax.data.folder import FolderSource
from rcmstr_jax.data.lmdb import LmdbSource, find_lmdbs
from rcmstr_jax.data.mixture import MixtureSource
from rcmstr_jax.data.records import TURNS, ConcatSource, RecordSource, TurnedSource
from rcmstr_jax.data.tfds import TfdsSource
from rcmstr_jax.runtime.files import refuse_remote

_FORMS = "lmdb:PATH, folder:PATH, tfds:NAME[:SPLIT][@DATA_DIR], synthetic[:SEED[:COUNT]]"

# Those that lie somewhere, and have an end.
SINGLE_KINDS = ("lmdb", "folder", "tfds")
_VERTICAL = "?vertical="
_TFDS_NAME = re.compile(r"(?P<name>[^:]+(:\d+\.(\d+|\*)\.(\d+|\*))?)(:(?P<split>.+))?")


def open_source(
    spec: str | Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    labels: bool = True,
    synthetic_options: Mapping[str, Any] | None = None,
) -> RecordSource:
    """Opens a source, or several as one.

    Args:
      spec: one spec (see above), or several.
      weights: one per spec: an endless mixture in these proportions. Without them several
        finite sources follow one another, so that each counts by its size.
      seed: seed of the mixture's order.
      labels: whether to read labels.
      synthetic_options: fields of `RenderOptions`, the look of rendered words.

    Raises:
      ValueError: unknown or malformed spec, a source that cannot be opened or is empty, or
        weights that do not fit.
    """
    specs = (spec,) if isinstance(spec, str) else tuple(spec)
    if not specs or not all(specs):
        raise ValueError(f"data.source is {spec!r}: name at least one source ({_FORMS})")
    opened = [_open_one(one, labels=labels, options=synthetic_options or {}) for one in specs]
    if weights:
        return MixtureSource(opened, weights, seed)
    if len(opened) == 1:
        return opened[0]
    try:
        return ConcatSource(opened)
    except ValueError as error:
        raise ValueError(f"data.source: {error} (data.weights)") from error


def plain_spec(spec: str) -> str:
    """A spec without what is to be done to its images."""
    return spec.rpartition(_VERTICAL)[0] or spec


def _open_one(spec: str, *, labels: bool, options: Mapping[str, Any]) -> RecordSource:
    refuse_remote("data.source", spec)
    plain = plain_spec(spec)
    if plain != spec:
        turn = spec.removeprefix(plain + _VERTICAL)
        if turn not in TURNS:
            raise ValueError(
                f"data.source: {spec!r}: vertical={turn} must be one of {', '.join(TURNS)} (auto, "
                "which reads both ways round, is for rcmstr-recognize)"
            )
        return TurnedSource(_open_one(plain, labels=labels, options=options), turn, spec)
    kind, _, rest = spec.partition(":")
    if kind == "synthetic":
        return _open_synthetic(spec, rest, options)
    if kind not in SINGLE_KINDS:
        hint = f"; for a folder of LMDBs write lmdb:{spec}" if "/" in kind else ""
        raise ValueError(f"data.source: unknown source {spec!r}{hint}; known are {_FORMS}")
    if not rest:
        raise ValueError(f"data.source: {spec!r} names no place; known are {_FORMS}")
    if kind == "lmdb":
        parts = [LmdbSource(path, labels=labels) for path in find_lmdbs(rest)]
        return parts[0] if len(parts) == 1 else ConcatSource(parts, name=spec)
    if kind == "folder":
        return FolderSource(rest, labels=labels)
    name, split, data_dir = split_of(rest)
    return TfdsSource(name, split, data_dir=data_dir or None, labels=labels)


def split_of(name: str) -> tuple[str, str, str]:
    """Builder, split and folder of NAME[:SPLIT][@DATA_DIR]; NAME may end in a version ("a:1.0.0").

    Raises:
      ValueError: it is of another form.
    """
    name, _, data_dir = name.partition("@")
    found = _TFDS_NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"data.source: tfds:{name} must be of the form tfds:NAME[:SPLIT]")
    return found["name"], found["split"] or "train", data_dir


def _open_synthetic(spec: str, rest: str, options: Mapping[str, Any]) -> RecordSource:
    numbers = rest.split(":") if rest else []
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(
            f"data.source: {spec!r} must be synthetic, synthetic:SEED or synthetic:SEED:COUNT "
            "with whole numbers"
        )
    # Fonts and word lists are costly to import, and only the renderer needs them.
    from rcmstr_jax.data.synthetic.options import RenderOptions
    from rcmstr_jax.data.synthetic.source import SyntheticSource

    known = {field.name for field in dataclasses.fields(RenderOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"data.synthetic: unknown fields {unknown}; the renderer has {sorted(known)}"
        )
    seed = int(numbers[0]) if numbers else 0
    look = RenderOptions(**options)
    if len(numbers) < 2:
        return SyntheticSource(seed, options=look)
    return SyntheticSource(seed, length=int(numbers[1]), options=look)
