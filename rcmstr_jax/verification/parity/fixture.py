"""A golden file: what was read of it, and the rows of comparisons made with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.interop.files import read_npz
from rcmstr_jax.interop.rules import Rules
from rcmstr_jax.interop.torch_weights import (
    COUNTER,
    import_weights,
    is_derived,
    names_of,
    unflatten,
)

# Largest error relative to the largest magnitude of the golden array.
TOLERANCE = {"float64": 1e-7, "float32": 1e-4}
# Without 64-bit numbers (JAX_ENABLE_X64=0) everything is in float32. Gradients of the whole
# network pass twice through 29 layers that are normalised by a batch of four, over ReLUs and maxima
# whose choice may flip (measured: up to 2e-2 at the first layers); the SGD steps, at the high rate
# of the fixture, carry that into the convolutions (measured: 3e-3 in the queues, 9e-2 in weights).
SINGLE_TOLERANCE = {
    "value": 1e-4,
    "gradient": 2e-3,
    "deep gradient": 5e-2,
    "trajectory": 1e-2,
    "trained weight": 3e-1,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      file: golden file.
      name: of the quantity.
      error: largest error relative to the array's scale; infinite where nothing fits.
      tolerance: largest error allowed.
      note: what the error does not say.
      stale: the file holds the figure from before the step instead of the one after it, exactly;
        there is nothing to compare with.
    """

    file: str
    name: str
    error: float
    tolerance: float
    note: str = ""
    stale: bool = False

    @property
    def verdict(self) -> str:
        """PASS, FAIL (a NaN fails), or STALE."""
        if self.stale:
            return "STALE"
        return "PASS" if self.error <= self.tolerance else "FAIL"


class MissingQuantity(KeyError):
    """A fixture lacks an array."""


def relative_error(value: np.ndarray, golden: np.ndarray) -> float:
    """max |value - golden| / max |golden|; absolute where golden is all zero."""
    if value.shape != golden.shape:
        return float("inf")
    if not golden.size:
        return 0.0
    difference = float(np.max(np.abs(value - golden)))
    scale = float(np.max(np.abs(golden)))
    return difference / scale if scale else difference


class Fixture:
    """The arrays of one golden file, with a record of which were read.

    Attributes:
      rows: comparisons so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._arrays = read_npz(path)
        self._read: set[str] = set()

    @property
    def double(self) -> bool:
        """Whether float64 exists in this process."""
        return bool(jax.config.read("jax_enable_x64"))

    @property
    def dtype(self) -> Any:
        """Type to compute float64 figures in."""
        return jnp.float64 if self.double else jnp.float32

    def names(self, prefix: str = "") -> list[str]:
        """Names that start with `prefix`; listing them does not read them."""
        return [name for name in self._arrays if name.startswith(prefix)]

    def _stored(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise MissingQuantity(name)
        return self._arrays[name]

    def raw(self, name: str) -> np.ndarray:
        """An array as it stands in the file.

        Raises:
          MissingQuantity: if the file lacks it.
        """
        self._read.add(name)
        return self._stored(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, which is not read by that; raises as `raw` does."""
        return self._stored(name).shape

    def array(self, name: str, dtype: Any = None) -> Any:
        """An input, floating numbers in `dtype` (default: `self.dtype`)."""
        value = self.raw(name)
        return jnp.asarray(value, dtype or self.dtype) if value.dtype.kind == "f" else value

    def images(self, name: str, dtype: Any = None) -> jax.Array:
        """Images in our layout, (batch, height, width, channels)."""
        return jnp.moveaxis(self.array(name, dtype), 1, -1)

    def weights(
        self, prefix: str, template: Mapping[str, Any], rules: Rules, dtype: Any = None
    ) -> dict[str, Any]:
        """Imports the state dict below `prefix` strictly; its arrays count as read.

        Args:
          prefix: of the names, for example `sd/`.
          template: flat tree of the variables needed.
          rules: their names.
          dtype: floating type, default `self.dtype`.

        Returns:
          Nested variables.

        Raises:
          WeightMismatch: listing what is missing, unexpected or misshapen.
        """
        names = [name.removeprefix(prefix) for name in self.names(prefix)]
        # Counters of layers that exist; one without its layer stays unread, and so fails.
        counters = [
            name
            for name in names
            if name.endswith(f".{COUNTER}") and name.replace(COUNTER, "running_var") in names
        ]
        known = {*(name for name, _ in names_of(template, rules).values()), *counters}
        derived = {name for name in names if is_derived(name)} - known
        arrays = {name: self.raw(f"{prefix}{name}") for name in names if name not in derived}
        flat = import_weights(
            arrays, template, rules, dtype=dtype or self.dtype, where=f"{self.path.name}:{prefix}*"
        )
        # Counters of batches take part in no computation: they must at least agree.
        if counters:
            counts = [arrays[name] for name in counters]
            self.exact(f"{prefix}*.{COUNTER}", counts, [counts[0]] * len(counts))
        return unflatten(jax.tree.map(jnp.asarray, flat))

    def compare(
        self,
        name: str,
        value: Any,
        *,
        kind: str = "value",
        rounding: float = 0.0,
        before: Any = None,
        centre: Any = None,
        label: str = "",
    ) -> None:
        """Adds a row for a floating quantity.

        Args:
          name: of the golden array; a missing one fails.
          value: ours, in the golden layout.
          kind: key of `SINGLE_TOLERANCE`: which tolerance applies in float32.
          rounding: relative error that the inputs' own rounding explains, added to the tolerance.
          before: the same quantity before the step. A golden array that equals it exactly, where
            ours has moved, makes the row stale: PyTorch updates buffers in place, and the
            scripts that wrote the files kept views of some.
          centre: subtracted from both sides, where what matters is small beside it.
          label: says so in the row's name.
        """
        golden = self._arrays.get(name)
        if golden is None:
            return self.fail(name, "missing in the file")
        self._read.add(name)
        if golden.dtype.kind != "f":
            return self.fail(name, f"is {golden.dtype}, no floating number")
        tolerance = SINGLE_TOLERANCE[kind]
        if self.double:
            tolerance = TOLERANCE["float64" if golden.dtype == np.float64 else "float32"]
        value, note = np.asarray(value, np.float64), ""
        if value.shape != golden.shape:
            note, centre = f"ours {value.shape}, golden {golden.shape}", 0.0
        origin = np.asarray(0.0 if centre is None else centre, np.float64)
        error = relative_error(value - origin, golden.astype(np.float64) - origin)
        stale = (
            before is not None
            and not error <= tolerance
            and np.array_equal(golden.astype(np.float32), np.asarray(before, np.float32))
        )
        if stale:
            note = "the file holds the figure from before the step"
        row = Row(self.path.name, f"{name}{label}", error, tolerance + rounding, note, stale)
        self.rows.append(row)

    def exact(self, name: str, value: Any, golden: Any = None) -> None:
        """Adds a row for integers, flags or strings, which have to be equal."""
        golden = self._arrays.get(name) if golden is None else golden
        if golden is None:
            return self.fail(name, "missing in the file")
        self._read.add(name)
        if not np.array_equal(np.asarray(value), np.asarray(golden)):
            return self.fail(name, "differs")
        self.rows.append(Row(self.path.name, name, 0.0, 0.0))

    def fail(self, name: str, note: str) -> None:
        """Adds a failed row."""
        self.rows.append(Row(self.path.name, name, float("inf"), 0.0, note))

    def finish(self) -> list[Row]:
        """Fails every array that no check has read, and returns all rows."""
        for name in sorted(set(self._arrays) - self._read):
            self.fail(name, "no check reads this array")
        return self.rows
