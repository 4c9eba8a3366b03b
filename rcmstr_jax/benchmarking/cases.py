"""What is measured: cases by name, and the settings that they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rcmstr_jax.benchmarking.matrix_work import matrix_operations

MODELS = ("cnn", "vit-tiny", "vit-small", "vit-base")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of a measurement.

    Attributes:
      model: "cnn", "vit-tiny", "vit-small" or "vit-base".
      width: output width of the CNN.
      batch: words per step.
      queue: keys per queue.
      precision: arithmetic, "float32" or "bfloat16".
      rectifier: whether the rectifier stands in front of the CNN.
      ratios: shares of hidden patches, for the sparse encoder.
      source: spec of real words for the input cases; empty leaves them out.

    Raises:
      ValueError: naming the field that cannot work, its value and the remedy.
    """

    model: str = "cnn"
    width: int = 512
    batch: int = 32
    queue: int = 65_536
    precision: str = "float32"
    rectifier: bool = False
    ratios: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    source: str = ""

    def __post_init__(self) -> None:
        for name, known in (("model", MODELS), ("precision", tuple(DTYPES))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)}: use one of {', '.join(known)}")
        for name, least in (("width", 16), ("batch", 2), ("queue", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give at least {least}")
        if self.width % 16:
            raise ValueError(f"width={self.width}: give a multiple of 16")
        if self.rectifier and self.model != "cnn":
            raise ValueError(f"rectifier=True: it stands in front of the CNN, not of {self.model}")
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise ValueError(f"ratios={self.ratios}: give numbers between 0 and 1")

    @property
    def image_width(self) -> int:
        """Pixels: what the encoder is made for."""
        return 100 if self.model == "cnn" else 128

    @property
    def dtype(self) -> Any:
        """The precision as a dtype."""
        return DTYPES[self.precision]


@dataclasses.dataclass(frozen=True)
class Program:
    """A case that is ready to run.

    Attributes:
      run: one repetition; returns when it is done.
      operations: of one repetition as XLA counts them: the body of a loop once.
      matrix_operations: multiplications and additions of its matrix products and convolutions,
        loops multiplied out, over all devices; None where nothing is computed on a device.
      devices: that share the work.
    """

    run: Callable[[], Any]
    operations: float | None = None
    matrix_operations: float | None = None
    devices: int = 1


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
      what: the table.
      name: of the row.
      prepare: builds and compiles; called once, in the process that runs the case.
      words: that one repetition handles, or None.
      keys: further keys of the row.
    """

    what: str
    name: str
    prepare: Callable[[], Program]
    words: int | None = None
    keys: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def compiled_program(function: Any, *args: Any) -> Program:
    """A jitted function with its arguments as a program.

    Args:
      function: with the `lower` method of `jax.jit`.
      *args: what it is always called with.
    """
    program = function.lower(*args).compile()
    return Program(
        run=lambda: jax.block_until_ready(program(*args)),
        operations=xla_operations(program),
        matrix_operations=matrix_operations(function, *args),
    )


def xla_operations(program: Any) -> float | None:
    """Floating-point operations of a compiled program, as XLA counts them."""
    cost = program.cost_analysis()
    if isinstance(cost, list):
        cost = cost[0] if cost else None
    return float(cost["flops"]) if cost and "flops" in cost else None
