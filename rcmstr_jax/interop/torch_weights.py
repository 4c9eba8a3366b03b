"""Strict import and export of PyTorch state dicts.

Trees are flat here: `{"params/encoder/conv0_1/kernel": array}`. A set of rules names every path;
import compares names and shapes on both sides and lists all that differ. Export writes the same
names and layouts back, so that import after export is the identity, bit for bit.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from rcmstr_jax.interop.rules import LAYOUTS, Layout, Rules
from rcmstr_jax.runtime.errors import listed

Flat = dict[str, np.ndarray]
COUNTER = "num_batches_tracked"
# Derived from the architecture, not learnt: the spline's constants and batch counters.
DERIVED = (rf"(?:.*\.)?{COUNTER}", r"(?:.*\.)?GridGenerator\.(?:inv_delta_C|P_hat)")
# Name, array found, shape needed, kind of number needed.
Misshapen = tuple[str, np.ndarray, tuple[int, ...], str]


class WeightMismatch(ValueError):
    """Names or shapes of a state dict differ from what the model needs.

    Attributes:
      missing: names the model needs that are not there.
      unexpected: names that belong to nothing.
      misshapen: `(name, shape found, shape needed)`; names whose arrays are of another kind of
        number (integers for floats) are among them, and the message names both kinds.
    """

    def __init__(
        self,
        missing: Sequence[str],
        unexpected: Sequence[str],
        misshapen: Sequence[Misshapen],
        where: str = "",
    ) -> None:
        self.missing, self.unexpected = list(missing), list(unexpected)
        self.misshapen = [(name, found.shape, need) for name, found, need, _ in misshapen]
        wrong = [
            f"{name} has shape {found.shape}, needs {need}"
            if found.shape != need
            else f"{name} holds {found.dtype}, needs {kind}"
            for name, found, need, kind in misshapen
        ]
        parts = listed(missing=missing, unexpected=unexpected, misshapen=wrong)
        super().__init__(
            f"{where or 'the state dict'} does not fit the model; {parts}. "
            "Names that may differ have to be waived one by one or by pattern"
        )


# Leaves of nested dictionaries by slash-separated path, and back.
flatten = functools.partial(traverse_util.flatten_dict, sep="/")
unflatten = functools.partial(traverse_util.unflatten_dict, sep="/")


def is_derived(name: str) -> bool:
    """Whether a PyTorch name holds what no import needs: a counter, or a constant of the spline."""
    return any(re.fullmatch(pattern, name) for pattern in DERIVED)


def names_of(paths: Iterable[str], rules: Rules) -> dict[str, tuple[str, Layout]]:
    """PyTorch name and layout of every path, by the first rule that applies.

    Raises:
      KeyError: listing the paths that no rule names.
    """
    found = {}
    for path in paths:
        named = ((rule.translate(path), LAYOUTS[rule.layout]) for rule in rules)
        found[path] = next(((name, layout) for name, layout in named if name is not None), None)
    unnamed = [path for path, rule in found.items() if rule is None]
    if unnamed:
        raise KeyError(f"no rule names {', '.join(unnamed)}")
    return {path: rule for path, rule in found.items() if rule is not None}


def import_weights(
    arrays: Mapping[str, np.ndarray],
    template: Mapping[str, Any],
    rules: Rules,
    *,
    dtype: Any = None,
    waive: Sequence[str] = (),
    where: str = "",
) -> Flat:
    """Translates a state dict into a flat tree.

    Args:
      arrays: PyTorch names and arrays.
      template: flat tree of arrays or `jax.ShapeDtypeStruct` that the model needs.
      rules: names of the template's paths.
      dtype: of floating results; None keeps what the file holds.
      waive: patterns (`fnmatch`) of PyTorch names that may be missing, unexpected or misshapen;
        where the model needs such a name, the template's own array is taken.
      where: what to call the source in an error.

    Returns:
      Flat tree with the template's paths.

    Raises:
      WeightMismatch: listing every missing, unexpected and misshapen name.
    """

    def waived(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in waive)

    result: Flat = {}
    missing: list[str] = []
    misshapen: list[Misshapen] = []
    names = names_of(template, rules)
    for path, (name, layout) in names.items():
        wanted = template[path]
        need = layout.their_shape(tuple(wanted.shape))
        array = arrays.get(name)
        integer = np.issubdtype(wanted.dtype, np.integer)
        kinds = "iu" if integer else "f"
        if array is not None and array.shape == need and np.asarray(array).dtype.kind in kinds:
            ours = np.ascontiguousarray(layout.ours(np.asarray(array)))
            cast = wanted.dtype if integer else dtype
            result[path] = (ours if cast is None else ours.astype(cast)).reshape(wanted.shape)
        elif waived(name) and not isinstance(wanted, jax.ShapeDtypeStruct):
            result[path] = np.asarray(wanted)
        elif array is None:
            missing.append(name)
        else:
            kind = "integers" if integer else "floating numbers"
            misshapen.append((name, np.asarray(array), need, kind))
    known = {name for name, _ in names.values()}
    unexpected = [
        name for name in arrays if name not in known and not waived(name) and not is_derived(name)
    ]
    if missing or unexpected or misshapen:
        raise WeightMismatch(missing, unexpected, misshapen, where)
    return result


def export_weights(flat: Mapping[str, Any], rules: Rules, *, counters: bool = True) -> Flat:
    """Translates a flat tree into a state dict, the inverse of `import_weights`.

    Args:
      flat: arrays by path; every path must have a rule.
      rules: names of the paths.
      counters: write `num_batches_tracked` (zero) for every normalisation layer, which PyTorch
        expects in a strict load.
    """
    result: Flat = {}
    for path, (name, layout) in names_of(flat, rules).items():
        # A copy: the caller's arrays must not change with what is done to the result.
        array = np.array(layout.theirs(np.asarray(flat[path])), order="C", copy=True)
        # Integers are 64-bit over there, and 32-bit here.
        result[name] = array.astype(np.int64) if array.dtype.kind in "iu" else array
        if counters and name.endswith(".running_var"):
            result[name.removesuffix("running_var") + COUNTER] = np.zeros((), np.int64)
    return result


def strip_prefixes(
    arrays: Mapping[str, np.ndarray], prefixes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Removes each prefix, in order, where all names share it."""
    arrays = dict(arrays)
    for prefix in prefixes:
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays
