"""Benchmark sets of scene text recognition, and the sizes under which they are published.

Scores are comparable only on the same subset, and one name is used for several (IC13 has 857,
1015 or 1095 words), so a set is identified by its name and its size (method section 8).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rcmstr_jax.data.lmdb import LmdbSource, find_lmdbs

# Published sizes; an empty tuple: any size is accepted, the set has no fixed subset here.
ACCEPTED_SIZES: dict[str, tuple[int, ...]] = {
    "IIIT5K": (3000,),
    "IC03": (860, 867, 1107),
    "IC13": (857, 1015, 1095),
    "SVT": (647,),
    "IC15": (1811, 2077),
    "SVTP": (645,),
    "CUTE80": (288,),
    "COCO-Text": (),
    "CTW": (),
    "Total-Text": (),
    "HOST": (),
    "WOST": (),
    "Union14M-Benchmark": (),
}
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
}


@dataclass(frozen=True)
class Benchmark:
    """A set to be scored.

    Attributes:
        name: registered name and size ("IC13_1015"), or the folder's own name if unknown.
        path: its LMDB.
        size: number of words it declares.
        accepted: whether the size is a published one; None if the name or its sizes are unknown.
    """

    name: str
    path: Path
    size: int
    accepted: bool | None


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


def resolve_benchmarks(root: str | os.PathLike[str]) -> list[Benchmark]:
    """All benchmark LMDBs at or below a folder.

    Args:
        root: a folder of LMDBs at any depth, or one LMDB.

    Returns:
        Benchmarks in the order of the registry, unknown ones after them by name. A set of an
        unknown name is scored under its path below the root.

    Raises:
        ValueError: no LMDB there, or one that is foreign or empty; or two sets of one name.
    """
    root = Path(root)
    found: list[Benchmark] = []
    for path in find_lmdbs(root):
        size = len(LmdbSource(path, labels=False))
        below = path.relative_to(root).as_posix() if path != root else path.name
        name = registered_name(path.name)
        if name is None:
            found.append(Benchmark(below, path, size, None))
        else:
            sizes = ACCEPTED_SIZES[name]
            found.append(Benchmark(f"{name}_{size}", path, size, size in sizes if sizes else None))
    names = [benchmark.name for benchmark in found]
    for benchmark in found:
        if names.count(benchmark.name) > 1:
            same = [str(other.path) for other in found if other.name == benchmark.name]
            raise ValueError(
                f"two benchmarks under {root} are called {benchmark.name}: {', '.join(same)}; "
                "score them one at a time, or rename one"
            )
    order = list(ACCEPTED_SIZES)
    return sorted(found, key=lambda found_one: (_rank(found_one, order), found_one.name))


def _rank(benchmark: Benchmark, order: list[str]) -> int:
    name = registered_name(benchmark.path.name)
    return order.index(name) if name is not None else len(order)
