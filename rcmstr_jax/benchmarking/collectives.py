"""What a compiled step sends between its devices, read from the text of its HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

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
COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(?P<size>\d+)\]|\{\{(?P<first>[\d,]+)\})")
_CHAIN = re.compile(r'chain_id="(\d+)"')
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


def collectives_in(
    hlo: str, devices: int, runs: Mapping[str, int] | None = None
) -> list[Collective]:
    """Finds the collectives of a compiled program, in order of the text.

    Args:
      hlo: `compiled.as_text()`.
      devices: that the program runs on; the group of operations that name none.
      runs: how often a computation runs, see `program.runs_of_computations`; one in a loop is then
        found as often.

    Raises:
      ValueError: if one lies in a loop, and `runs` does not tell how often that runs.
    """
    loops = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", hlo))
    found: list[Collective] = []
    computation, chains = "", set[tuple[Any, ...]]()
    for line in hlo.splitlines():
        if header := COMPUTATION.match(line):
            computation = header["name"]
        if operation := _OPERATION.match(line):
            times = (runs or {}).get(computation, 0 if computation in loops else 1)
            if not times:
                said = line.strip()[:200]
                raise ValueError(f"a collective inside a loop cannot be counted: {said}")
            groups = _GROUPS.search(line)
            if chain := _CHAIN.search(line):
                # The TPU compiler weaves one exchange into several computations: parts of a chain.
                part = (chain[1], operation["kind"], *_ARRAY.findall(operation["type"]))
                if part in chains:
                    continue
                chains.add(part)
            group = devices
            if groups:  # counted, or the first one listed
                group = int(groups["size"] or groups["first"].count(",") + 1)
            found += [_collective(operation, group)] * times
    return found


def _collective(operation: re.Match[str], group: int) -> Collective:
    kind = operation["kind"]
    results = [(match[0], _bytes(match)) for match in _ARRAY.finditer(operation["type"])]
    if operation["start"] and kind != "all-reduce":
        # The started form returns its operands, its results, and for a permutation two counters.
        results = [array for array in results if not array[0].startswith("u32[]")]
        results = results[len(results) // 2 :]
    size = sum(count for _, count in results) * (group if kind == "reduce-scatter" else 1)
    return Collective(kind, tuple(name for name, _ in results), size, group)


def _bytes(array: re.Match[str]) -> int:
    size = math.prod(int(n) for n in array["shape"].split(",") if n)
    return size * element_bits(array["type"]) // 8


def element_bits(name: str) -> int:
    """Bits of a number of a type of HLO, "bf16" for example."""
    return _BITS.get(name) or int(re.findall(r"\d+", name)[0])
