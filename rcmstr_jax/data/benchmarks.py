"""Benchmark sets of scene text recognition: their names, subsets, sizes and filtering rules.

Scores are comparable only on the same subset, and one name is used for several (IC13 has 857,
1015 or 1095 words), so a set is identified by its name and its size (method section 8).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rcmstr_jax.data.annotations import find_table
from rcmstr_jax.data.folder import files_below
from rcmstr_jax.data.lmdb import LmdbSource, find_lmdbs
from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.data.sources import SINGLE_KINDS, open_source, plain_spec

# Which labels of a test split enter a subset.
RULES: dict[str, str] = {
    "all": "every word",
    "alphanumeric": "words of letters and digits only",
    "alphanumeric3": "words of letters and digits only, three characters or more",
}


def passes(rule: str, text: str) -> bool:
    """Whether a label belongs to the subset that a rule of `RULES` makes.

    Letters and digits are the ASCII ones: the rules are those of the Latin benchmarks.

    Raises:
      ValueError: unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"filter={rule!r} is unknown: choose one of {', '.join(RULES)}")
    if rule == "all":
        return True
    return text.isascii() and text.isalnum() and (rule == "alphanumeric" or len(text) >= 3)


# Sizes of the published subsets of each set's test split. An empty tuple: any size is accepted, the
# set has no fixed subset here.
ACCEPTED_SIZES: dict[str, tuple[int, ...]] = {
    "IIIT5K": (3000,),
    "IC03": (860, 867, 1107),  # 867: "alphanumeric3"; 860: these less seven words; 1107: all
    "IC13": (857, 1015, 1095),  # "alphanumeric3", "alphanumeric", all
    "SVT": (647,),
    "IC15": (1811, 2077),  # 1811: letters and digits only, less the extremely warped
    "SVTP": (645,),
    "CUTE80": (288,),
    "COCO-Text": (),
    "CTW": (),
    "Total-Text": (),
    "HOST": (),
    "WOST": (),
    "Union14M-Benchmark": (),
}
# Sets that come as a folder of parts, each of them scored by itself.
_IN_PARTS = ("Union14M-Benchmark",)
# Other spellings in use, reduced to lower-case letters and digits.
_ALIASES = {
    "iiit5k": "IIIT5K",
    "iiit5k3000": "IIIT5K",
    "iiit": "IIIT5K",
    "icdar03": "IC03",
    "icdar2003": "IC03",
    "icdar13": "IC13",
    "icdar2013": "IC13",
    "icdar15": "IC15",
    "icdar2015": "IC15",
    "svtp": "SVTP",
    "svtperspective": "SVTP",
    "cute": "CUTE80",
    "coco": "COCO-Text",
    "cocov14": "COCO-Text",
    "ctw1500": "CTW",
    "totaltext": "Total-Text",
    "union14m": "Union14M-Benchmark",
    "union14mbenchmarks": "Union14M-Benchmark",
}


@dataclass(frozen=True)
class Benchmark:
    """A set to be scored.

    Attributes:
      name: registered name and size ("IC13_1015"), or the folder's own name if unknown.
      path: its LMDB, or the spec of another source.
      size: number of words it declares.
      accepted: whether the size is a published one; None if the name or its sizes are unknown.
      fault: why it cannot be scored (empty, foreign or truncated); "" if it can.
    """

    name: str
    path: Path | str
    size: int
    accepted: bool | None
    fault: str = ""


def registered_name(folder: str) -> str | None:
    """The registered name behind a folder's name ("ic13_1015", "ICDAR2013"), or None.

    A number after "_" or "-" that ends the name is a size and is not part of it.
    """
    known = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in ACCEPTED_SIZES} | _ALIASES
    for candidate in (folder, re.sub(r"[_-]\d+$", "", folder)):
        name = known.get(re.sub(r"[^a-z0-9]", "", candidate.lower()))
        if name is not None:
            return name
    return None


def benchmark_place(root: str | os.PathLike[str]) -> tuple[str, str]:
    """Kind and place of what benchmarks are read from: a spec, or a folder of LMDBs."""
    kind, colon, place = plain_spec(os.fspath(root)).partition(":")
    return (kind, place) if colon and kind in SINGLE_KINDS else ("lmdb", os.fspath(root))


def benchmark_spec(path: str | os.PathLike[str]) -> str:
    """What `open_source` opens for the `path` of a benchmark."""
    spec = os.fspath(path)
    return f"lmdb:{spec}" if benchmark_place(spec) == ("lmdb", spec) else spec


def open_benchmark(path: str | os.PathLike[str]) -> RecordSource:
    """The words behind the `path` of a benchmark.

    Raises:
      ValueError: they cannot be opened.
    """
    spec = benchmark_spec(path)
    # Of an LMDB that has others below it, this one alone.
    return LmdbSource(path) if spec == f"lmdb:{path}" else open_source(spec)


def resolve_benchmarks(root: str | os.PathLike[str]) -> list[Benchmark]:
    """All benchmarks that a name stands for.

    Args:
      root: a folder of LMDBs at any depth, or one LMDB (`lmdb:` before it or not); `folder:PATH`, a
        folder of images with labels, or of such folders; or a `tfds:` spec.

    Returns:
      Benchmarks in the order of the registry, unknown ones after them by name. A set of an
      unknown name is scored under its path below the root. One of which nothing can be read
      says so in `fault`: it shall stand in the table, and not stop the others.

    Raises:
      ValueError: nothing there, or nothing that can be read; or two sets of one name.
    """
    kind, place = benchmark_place(root)
    turned = os.fspath(root).removeprefix(plain_spec(os.fspath(root)))
    try:
        if kind == "tfds":
            source = open_source(os.fspath(root))
            return [Benchmark(place.partition("@")[0], os.fspath(root), len(source), None)]
        base = Path(place)
        paths = find_lmdbs(base) if kind == "lmdb" else _labelled_folders(base)
    except ValueError as error:
        raise ValueError(f"config.benchmarks={root}: {error}") from error
    found = [_identify(path, base, kind, turned) for path in paths]
    if all(benchmark.fault for benchmark in found):
        faults = "; ".join(benchmark.fault for benchmark in found[:3])
        what = "LMDB" if kind == "lmdb" else "folder"
        raise ValueError(f"no {what} under {place} can be scored ({len(found)} found): {faults}")
    names = [benchmark.name for benchmark in found]
    for benchmark in found:
        if names.count(benchmark.name) > 1:
            same = [str(other.path) for other in found if other.name == benchmark.name]
            raise ValueError(
                f"two benchmarks under {place} are called {benchmark.name}: {', '.join(same)}; "
                "score them one at a time, or rename one"
            )
    return sorted(found, key=lambda one: (_rank(Path(one.path)), one.name))


def _labelled_folders(root: Path) -> list[Path]:
    """The folders with a table of labels at or below one; without any, the folder itself."""
    if not root.is_dir():
        raise ValueError(f"there is no folder of images at {root}; give an existing folder")
    if find_table(root) is not None:
        return [root]
    folders = {root / Path(file).parent for file in files_below(root)}
    return sorted(folder for folder in folders if find_table(folder) is not None) or [root]


def _identify(path: Path, root: Path, kind: str, turned: str) -> Benchmark:
    """The set at a path: by its registered name and size, or its path below the root."""
    size, fault = 0, ""
    place = path if kind == "lmdb" and not turned else f"{kind}:{path}{turned}"
    try:
        source = open_benchmark(place)
        size = len(source)
        if kind == "folder" and not getattr(source, "labelled", False):
            fault = (
                f"{path} holds {size} images and no labels: write them into labels.tsv there, "
                "FILE<tab>WORD on each line"
            )
    except ValueError as error:
        fault = str(error)
    below = path.relative_to(root).as_posix() if path != root else path.name
    whole = registered_name(path.parent.name)
    if whole in _IN_PARTS:
        return Benchmark(f"{whole}/{path.name}", place, size, None, fault)
    name = registered_name(path.name)
    if name is None or fault:
        return Benchmark(below, place, size, None, fault)
    sizes = ACCEPTED_SIZES[name]
    return Benchmark(f"{name}_{size}", place, size, size in sizes if sizes else None)


def _rank(path: Path) -> int:
    name = registered_name(path.name) or registered_name(path.parent.name)
    return list(ACCEPTED_SIZES).index(name) if name else len(ACCEPTED_SIZES)
