"""What is measured: cases by name, and the settings that they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.training.plan import ModelPlan

MODELS = ("cnn", "compact", "vit-tiny", "vit-small", "vit-base")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _setting(default: Any, text: str) -> Any:
    """A field whose description is also the help text of its flag."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of a measurement.

    Raises:
      ValueError: naming the field that cannot work, its value and the remedy.
    """

    model: str = _setting("cnn", f"encoder, one of {', '.join(MODELS)}")
    width: int = _setting(512, "output width of the CNN")
    batch: int = _setting(32, "words per step")
    queue: int = _setting(65_536, "keys per queue")
    chunk: int = _setting(0, "queue entries at a time in the streamed loss; 0: the platform's own")
    precision: str = _setting("float32", f"arithmetic, one of {', '.join(DTYPES)}")
    rectifier: bool = _setting(False, "put the rectifier in front of the CNN")
    ratios: tuple[float, ...] = _setting((0.3, 0.5, 0.7, 0.9), "shares of hidden patches (sparse)")
    source: str = _setting("", "real words for pipeline and decode; empty leaves them out")

    def __post_init__(self) -> None:
        in_range = bool(self.ratios) and all(0 < ratio < 1 for ratio in self.ratios)
        for name, good, remedy in (
            ("model", self.model in MODELS, f"use one of {', '.join(MODELS)}"),
            ("precision", self.precision in DTYPES, f"use one of {', '.join(DTYPES)}"),
            ("width", self.width > 0 and self.width % 16 == 0, "give a multiple of 16"),
            ("batch", self.batch >= 2, "give at least 2"),
            ("queue", self.queue >= 1, "give at least 1"),
            ("rectifier", not self.rectifier or self.model == "cnn", "it belongs to --model=cnn"),
            ("ratios", in_range, "give numbers between 0 and 1"),
        ):
            if not good:
                raise ValueError(f"{name}={getattr(self, name)}: {remedy}")

    @property
    def image_width(self) -> int:
        """Pixels: what the encoder is made for."""
        return 128 if self.model.startswith("vit") else 100

    @property
    def keys_per_image(self) -> dict[str, int]:
        """How many keys an image adds to the queue of each hierarchy."""
        encoder = self.model.partition("-")[0]
        return ModelPlan(encoder, image_width=self.image_width).vectors(subwords=4)

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
      predicted: bytes that the compiler says a device needs, see `predicted_bytes`.
    """

    run: Callable[[], Any]
    operations: float | None = None
    matrix_operations: float | None = None
    devices: int = 1
    predicted: int | None = None


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
        predicted=predicted_bytes(program),
    )


def predicted_bytes(program: Any) -> int | None:
    """Arguments, new results, temporaries and code of a compiled program, as its compiler says."""
    memory = program.memory_analysis()
    if memory is None:
        return None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    extra = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return int(held - memory.alias_size_in_bytes + extra)


def xla_operations(program: Any) -> float | None:
    """Floating-point operations of a compiled program, as XLA counts them."""
    return (program.cost_analysis() or {}).get("flops")
