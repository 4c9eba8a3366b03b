"""What a compiled step sends between its devices, read from the text of its HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Share of an array's bytes that each of n devices sends when the operation runs on a ring.
RING_SHARE = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
_OPERATION = re.compile(
    rf"\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) (?P<kind>{'|'.join(RING_SHARE)})(?P<start>-start)?\("
)
_ARRAY = re.compile(r"(?P<type>pred|bf16|f8\w*|[suf]\d+|c64|c128)\[(?P<shape>[\d,]*)\]")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}


class Collective(NamedTuple):
    """One exchange between devices.

    Attributes:
      kind: as HLO calls it, "all-reduce" for example.
      arrays: types and shapes of its results, `("f32[64,3]",)`.
      size: bytes of the whole arrays: what is reduced, or what is there after gathering.
      group: devices that take part.
    """

    kind: str
    arrays: tuple[str, ...]
    size: int
    group: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends on a ring."""
        return self.size * RING_SHARE[self.kind](self.group)


def collectives_in(hlo: str, devices: int) -> list[Collective]:
    """Finds the collectives of a compiled program, in order of the text.

    Args:
      hlo: `compiled.as_text()`.
      devices: that the program runs on; the group of operations that name none.

    Raises:
      ValueError: if one lies in a loop, whose repetitions the text does not tell.
    """
    bodies = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", hlo))
    return [
        collective
        for computation, line in _lines(hlo)
        if (collective := _parse(line, devices, computation in bodies)) is not None
    ]


def _lines(hlo: str) -> Iterator[tuple[str, str]]:
    computation = ""
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            computation = header["name"]
        yield computation, line


def _parse(line: str, devices: int, repeated: bool) -> Collective | None:
    found = _OPERATION.match(line)
    if not found:
        return None
    if repeated:
        raise ValueError(f"a collective inside a loop cannot be counted: {line.strip()[:200]}")
    kind, group = found["kind"], _group(line, devices)
    results = [(match[0], _bytes(match)) for match in _ARRAY.finditer(found["type"])]
    if found["start"] and kind != "all-reduce":
        # The started form returns its operands, its results, and for a permutation two counters.
        results = [array for array in results if not array[0].startswith("u32[]")]
        results = results[len(results) // 2 :]
    size = sum(count for _, count in results) * (group if kind == "reduce-scatter" else 1)
    return Collective(kind, tuple(name for name, _ in results), size, group)


def _group(line: str, devices: int) -> int:
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return listed[1].count(",") + 1
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    return int(iota[1]) if iota else devices


def _bytes(array: re.Match[str]) -> int:
    name = array["type"]
    bits = _BITS.get(name) or int(re.findall(r"\d+", name)[0])
    return math.prod(int(n) for n in array["shape"].split(",") if n) * bits // 8
