"""Opens words with an answer for every pixel by their specs.

| spec | what |
| --- | --- |
| `rendered:SEED:NUM[:PRESET[:PART]]` | rendered words, "medium" and "train" by default |
| `textseg:FOLDER[:SPLIT]` | TextSeg, all of it or a split of its `split.json`; segmentation |
| `textzoom:FOLDER` | every LMDB of TextZoom at or below FOLDER; super-resolution |
| `crops:LMDB[,LMDB]` | real crops, 32 pixels high or more, damaged by us; super-resolution |

PRESET is a difficulty of `RenderOptions`, PART train or test. The parts share no word
(`RenderOptions.split`), no font family and no background photograph (`RenderOptions.looks`): a hash
of its name says to which part each belongs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rcmstr_jax.data.dense.pairs import CropsSource, TextZoomSource
from rcmstr_jax.data.dense.rendered import RenderedMasks, RenderedPairs
from rcmstr_jax.data.dense.textseg import TextSegSource
from rcmstr_jax.data.dense.words import TASKS, WIDTH, DenseSource
from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.runtime.files import refuse_remote

_PARTS = ("train", "test")
_FORMS = {
    "rendered": "rendered:SEED:NUM[:PRESET[:PART]]",
    "textseg": "textseg:FOLDER[:SPLIT]",
    "textzoom": "textzoom:FOLDER",
    "crops": "crops:LMDB[,LMDB]",
}
_KINDS = {
    "segmentation": ("rendered", "textseg"),
    "super_resolution": ("rendered", "textzoom", "crops"),
}


def open_dense(
    task: str,
    spec: str,
    *,
    image_width: int = WIDTH,
    synthetic_options: Mapping[str, Any] | None = None,
) -> DenseSource:
    """Opens the words of a task.

    Args:
      task: of `TASKS`.
      spec: see above.
      image_width: of words to be segmented, in pixels.
      synthetic_options: fields of `RenderOptions`, in place of the preset's.

    Raises:
      ValueError: unknown task, unknown or malformed spec, or words that cannot be opened.
    """
    if task not in TASKS:
        raise ValueError(f"task = {task!r} is unknown: choose one of {', '.join(TASKS)}")
    refuse_remote("data.source", spec)
    kind, _, rest = spec.partition(":")
    known = ", ".join(_FORMS[name] for name in _KINDS[task])
    if kind not in _KINDS[task]:
        what = "unknown source" if kind not in _FORMS else f"no source for {task}:"
        raise ValueError(f"data.source: {what} {spec!r}; known for {task} are {known}")
    if not rest:
        raise ValueError(f"data.source: {spec!r} names no place; known are {known}")
    if kind == "rendered":
        return _open_rendered(task, spec, rest, image_width, synthetic_options or {})
    if kind == "textseg":
        folder, _, split = rest.partition(":")
        return TextSegSource(folder, split, image_width=image_width)
    if kind == "textzoom":
        return TextZoomSource(rest)
    return CropsSource(rest.split(","), _options(spec, "medium", synthetic_options or {}))


def _open_rendered(
    task: str, spec: str, rest: str, image_width: int, changes: Mapping[str, Any]
) -> DenseSource:
    numbers, extra = rest.split(":")[:2], rest.split(":")[2:]
    if len(numbers) < 2 or len(extra) > 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(
            f"data.source: {spec!r} must be {_FORMS['rendered']} with whole numbers SEED and NUM"
        )
    seed, length = int(numbers[0]), int(numbers[1])
    if not 0 <= seed < 2**63 or not length:
        raise ValueError(
            f"data.source: {spec!r} needs a SEED from 0 to 2**63 - 1 and at least 1 for NUM"
        )
    part = extra[1] if len(extra) > 1 else "train"
    if part not in _PARTS:
        raise ValueError(
            f"data.source: {spec!r}: PART = {part!r} must be one of {', '.join(_PARTS)}"
        )
    changes = {**changes, "split": part, "looks": part}
    options = _options(spec, extra[0] if extra else "medium", changes)
    if task == "segmentation":
        return RenderedMasks(spec, seed, length, options, image_width=image_width)
    return RenderedPairs(spec, seed, length, options)


def _options(spec: str, preset: str, changes: Mapping[str, Any]) -> RenderOptions:
    unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(RenderOptions)})
    if unknown:
        raise ValueError(f"data.synthetic: unknown fields {unknown}; see RenderOptions")
    try:
        return RenderOptions.preset(preset, **changes)
    except ValueError as error:
        raise ValueError(f"data.source: {spec!r}: {error}") from error
