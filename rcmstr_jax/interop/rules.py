"""Translates a path of our trees into a PyTorch name, and an array between both layouts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array is laid out on either side.

    Attributes:
      ours: from their array, of the shape it must have, to ours.
      theirs: from our array to theirs; the inverse of `ours`.
    """

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]

    def their_shape(self, shape: Shape) -> Shape:
        """The shape their array must have for ours to be of `shape`; nothing is computed."""
        return self.theirs(np.broadcast_to(np.float32(0), shape)).shape


def _kernel_to_patches(ours: np.ndarray) -> np.ndarray:
    side = round((ours.shape[0] / 3) ** 0.5)  # square patches of three channels
    return ours.reshape(side, side, 3, ours.shape[1]).transpose(3, 2, 0, 1)


LAYOUTS: dict[str, Layout] = {
    "same": Layout(lambda a: a, lambda a: a),
    # (out, in) and (in, out)
    "linear": Layout(lambda a: a.T, lambda a: a.T),
    # (out, in, height, width) and (height, width, in, out)
    "conv": Layout(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),
    # a convolution whose window is its stride, and a matrix over (row, column, channel)
    "patches": Layout(
        lambda a: a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0]), _kernel_to_patches
    ),
    # (1, D) and (D,)
    "row": Layout(lambda a: a.reshape(-1), lambda a: a[None]),
    # (1, 1, D) and (D,)
    "token": Layout(lambda a: a.reshape(-1), lambda a: a[None, None]),
    # (1,) and ()
    "scalar": Layout(lambda a: a.reshape(()), lambda a: a.reshape(1)),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """Names some paths.

    Attributes:
      path: regular expression that a whole path must match; its groups are named.
      name: PyTorch name, with the groups in braces.
      layout: key of `LAYOUTS`.
    """

    path: str
    name: str
    layout: str = "same"

    def translate(self, path: str) -> str | None:
        """The PyTorch name of a path, None where the rule does not apply."""
        match = re.fullmatch(self.path, path)
        return None if match is None else self.name.format(**match.groupdict())


Rules = Sequence[Rule]


def under(path: str, name: str, rules: Iterable[Rule]) -> list[Rule]:
    """The same rules with a prefix (regular expression and template) on either side."""
    return [Rule(path + rule.path, name + rule.name, rule.layout) for rule in rules]


def linear(path: str, name: str, bias: bool = True) -> list[Rule]:
    """`kernel` and `bias` of a linear map."""
    rules = [Rule(f"{path}/kernel", f"{name}.weight", "linear")]
    return [*rules, Rule(f"{path}/bias", f"{name}.bias")] if bias else rules


def conv(path: str, name: str) -> list[Rule]:
    """`kernel` of a convolution without bias."""
    return [Rule(f"{path}/kernel", f"{name}.weight", "conv")]


def norm(path: str, name: str) -> list[Rule]:
    """Scale, bias and, for batch normalisation, running statistics."""
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return [Rule(f"{path}/{ours}", f"{name}.{theirs}") for ours, theirs in leaves.items()]
