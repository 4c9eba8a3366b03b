"""What the operations of a compiled program read from memory and write, from the text of its HLO.

Every operation that the program runs reads its operands and writes its results; what is fused into
one stays on the chip. Slices read what they take, updates in place write what they change. Arrays
count with the padding of their tiles, and nothing where the compiler put them into another memory
than the main one (`S(n)` in their layout). Bodies of loops count as often as they run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

from rcmstr_jax.benchmarking.collectives import COMPUTATION, element_bits

_INSTRUCTION = re.compile(
    r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<kind>[a-z][\w\-]*)\((?P<rest>.*)"
)
_ARRAY = re.compile(
    r"(?P<type>pred|bf16|f8\w*|[suf]\d+|c64|c128)\[(?P<shape>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?"
)
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# They name what is there already, or what they do is counted inside.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("while", "conditional", "call", "partition-id", "replica-id"),
)
_TAKING = ("dynamic-slice", "slice", "gather")
_SAME = ("bitcast", "reshape")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a program.

    Attributes:
      name: in the program's text.
      kind: as HLO calls it.
      source: the path of calls in JAX that it comes from, "" where the compiler does not say.
      times: how often a run of the program does it.
      bytes: that it reads and writes at a time.
    """

    name: str
    kind: str
    source: str
    times: int
    bytes: float

    @property
    def moved(self) -> float:
        """Bytes in a run of the program."""
        return self.times * self.bytes


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """A line of a program: `name = type kind(arguments), attributes`."""

    name: str
    kind: str
    type: str
    arguments: str
    attributes: str
    root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        return _names(self.arguments)

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Computations that it runs."""
        found = "".join(f"%{name.lstrip('%')} " for name in _CALLED.findall(self.attributes))
        return _names(found.replace("%{", ""))


_Body = Mapping[str, _Instruction]


def operations_in(hlo: str) -> list[Operation]:
    """The operations of a compiled program that move bytes, those that move most first.

    Args:
      hlo: `compiled.as_text()`, the program of one device.
    """
    bodies, found = _bodies(hlo), []
    for name, times in runs_of_computations(hlo).items():
        for instruction in bodies[name].values():
            if instruction.kind not in _FREE and not instruction.kind.endswith("-done"):
                source = re.search(r'op_name="([^"]*)"', instruction.attributes)
                moved = _moved(instruction, bodies[name], bodies)
                operation = Operation(
                    instruction.name, instruction.kind, source[1] if source else "", times, moved
                )
                found.append(operation)
    return sorted((o for o in found if o.bytes), key=lambda operation: -operation.moved)


def runs_of_computations(hlo: str) -> dict[str, int]:
    """How often each computation runs that is not part of an operation; the rest is left out.

    A loop runs as often as the compiler notes it, else as the largest whole number says that its
    condition knows; once where there is none. Of a conditional all branches count.
    """
    bodies = _bodies(hlo)
    runs: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for instruction in bodies[name].values():
            if instruction.kind in ("while", "conditional", "call"):
                turns = _turns(instruction, bodies) if instruction.kind == "while" else 1
                for called in instruction.called:
                    visit(called, times * turns)

    visit(
        next(m["name"] for line in hlo.splitlines() if (m := COMPUTATION.match(line)) and m[1]), 1
    )
    return runs


@functools.lru_cache(maxsize=1)
def _bodies(hlo: str) -> dict[str, dict[str, _Instruction]]:
    """Computation -> name -> instruction."""
    bodies: dict[str, dict[str, _Instruction]] = {}
    body: dict[str, _Instruction] = {}
    for line in hlo.splitlines():
        if header := COMPUTATION.match(line):
            body = bodies.setdefault(header["name"], {})
        elif found := _INSTRUCTION.match(line):
            end = _closing(found["rest"])
            body[found["name"]] = _Instruction(
                name=found["name"],
                kind=found["kind"],
                type=found["type"],
                arguments=found["rest"][:end],
                attributes=found["rest"][end:],
                root=found["root"] is not None,
            )
    return bodies


def _closing(text: str) -> int:
    """Where the bracket closes that was opened before `text`."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    return len(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"%([\w.\-]+)", text))


def _turns(loop: _Instruction, bodies: Mapping[str, _Body]) -> int:
    if noted := _TRIPS.search(loop.attributes):
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    numbers = [
        int(instruction.arguments)
        for instruction in bodies[condition[1]].values()
        if instruction.kind == "constant" and instruction.arguments.isdecimal()
    ] if condition else []  # fmt: skip
    return max(numbers, default=1)


def _moved(instruction: _Instruction, body: _Body, bodies: Mapping[str, _Body]) -> float:
    """Bytes of what an operation reads and writes."""
    if 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0.0
    if instruction.kind == "slice-start":  # its type lists all of what it takes a part of
        whole, part = list(_ARRAY.finditer(instruction.type))[:2]
        return _size(part) + (_size(part, anywhere=True) if _size(whole) else 0)
    if instruction.kind.endswith("-start"):  # its type lists what it reads and what it writes
        return array_bytes(instruction.type)
    written = _written(instruction, body, bodies)
    if instruction.kind in _TAKING:
        return 2 * written
    read = sum(
        min(array_bytes(body[name].type), _read(instruction, place, body, bodies))
        for place, name in enumerate(instruction.operands)
        if name in body
    )
    return written + read


def _written(instruction: _Instruction, body: _Body, bodies: Mapping[str, _Body]) -> float:
    """Bytes of the result; of an update in place, those that change."""
    size = array_bytes(instruction.type)
    if instruction.kind == "dynamic-update-slice":
        return min(size, array_bytes(body[instruction.operands[1]].type))
    if instruction.kind == "fusion" and instruction.called:
        inside = bodies[instruction.called[0]]
        (root,) = (found for found in inside.values() if found.root)
        parts = [inside[name] for name in root.operands] if root.kind == "tuple" else [root]
        return min(size, sum(_written(_origin(part, inside), inside, bodies) for part in parts))
    return size


def _origin(instruction: _Instruction, body: _Body) -> _Instruction:
    """What an instruction only renames."""
    while instruction.kind in _SAME and instruction.operands[0] in body:
        instruction = body[instruction.operands[0]]
    return instruction


def _read(instruction: _Instruction, place: int, body: _Body, bodies: Mapping[str, _Body]) -> float:
    """Bytes that an operation reads of its operand at a place; infinite for all of it."""
    if instruction.kind in _TAKING and not place:
        return array_bytes(instruction.type)
    if instruction.kind == "dynamic-update-slice" and not place:
        return 0.0
    if instruction.kind in _SAME:
        return _read_by_users(instruction.name, body, bodies)
    if instruction.kind == "fusion" and instruction.called:
        inside = bodies[instruction.called[0]]
        for parameter in inside.values():
            if parameter.kind == "parameter" and parameter.arguments == str(place):
                return _read_by_users(parameter.name, inside, bodies)
    return math.inf


def _read_by_users(name: str, body: _Body, bodies: Mapping[str, _Body]) -> float:
    users = [user for user in body.values() if name in user.operands]
    if not users or any(user.root and user.kind in _SAME for user in users):
        return math.inf
    return sum(_read(user, user.operands.index(name), body, bodies) for user in users)


def array_bytes(text: str) -> float:
    """Bytes of the arrays that a type names, in main memory and with the padding of their tiles."""
    return float(sum(_size(found) for found in _ARRAY.finditer(text)))


def _size(found: re.Match[str], anywhere: bool = False) -> int:
    layout = found["layout"] or ""
    if re.search(r"S\([1-9]", layout) and not anywhere:
        return 0
    shape = [int(n) for n in found["shape"].split(",") if n]
    order, _, tiles = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    if tile and shape:
        minor = [int(n) for n in order.split(",")]
        for axis, unit in zip(minor, reversed([int(n) for n in tile[1].split(",")]), strict=False):
            shape[axis] = -(-shape[axis] // unit) * unit
    return math.prod(shape) * element_bits(found["type"]) // 8
