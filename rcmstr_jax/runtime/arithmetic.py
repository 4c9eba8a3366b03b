"""How exactly float32 products are made: as asked for by class, or as suits the platform.

Unless it is asked, an accelerator rounds the factors of float32 products: a TPU to bfloat16 (8
bits), an NVIDIA GPU since Ampere to TF32 (11 bits). Products of bfloat16 factors have no choice,
and CPUs always compute in float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, cast

import jax

from rcmstr_jax.target import target_platform

PRECISIONS = ("auto", "default", "high", "highest")
Asked = Literal["default", "high", "highest"]
# What "auto" asks for; elsewhere nothing. The logits of the relations are divided by 0.04, which
# one pass of bfloat16 does not bear; warps compute places in the image by the same products.
_AUTO = {
    ("loss", "tpu"): "high",
    ("warps", "gpu"): "highest",
    ("warps", "tpu"): "highest",
}
_MEANING = {
    ("gpu", "default"): "TF32",
    ("gpu", "high"): "TF32",
    ("tpu", "default"): "bfloat16, one pass",
    ("tpu", "high"): "bfloat16, three passes",
}


@dataclasses.dataclass(frozen=True)
class Precision:
    """What is asked for, one of `PRECISIONS` each.

    Attributes:
      network: encoder, projector, heads and decoder.
      loss: queries and keys with the queue.
      warps: of the views.
    """

    network: str = "auto"
    loss: str = "auto"
    warps: str = "auto"

    def resolved(self) -> dict[str, Asked | None]:
        """What is asked of JAX, by class, for the platform that is compiled for; None for nothing.

        "auto" leaves it to JAX's own setting, $JAX_DEFAULT_MATMUL_PRECISION, where there is one.
        """
        own = _own_setting()
        found: dict[str, Any] = {}
        for name, asked in dataclasses.asdict(self).items():
            auto = None if own else _AUTO.get((name, target_platform()))
            found[name] = auto if asked == "auto" else asked
        return found

    def describe(self, dtype: str) -> str:
        """A line for the log.

        Args:
          dtype: of the network, whose products the loss makes alike: "float32" or "bfloat16".
        """
        said = []
        for name, asked in self.resolved().items():
            precision = asked or _own_setting() or "default"
            kind = _MEANING.get((target_platform(), precision), "float32")
            if dtype == "bfloat16" and name != "warps":
                precision, kind = "", dtype
            said.append(f"{name} {kind}" + (f" ({precision})" if precision else ""))
        return "; ".join(said)


def _own_setting() -> str | None:
    """JAX's, of this block or of the process."""
    return cast(Any, jax.config).jax_default_matmul_precision


def products(asked: Asked | None) -> contextlib.AbstractContextManager[None]:
    """Float32 products that are traced within the block are made so; None changes nothing."""
    if asked is None:
        return contextlib.nullcontext()
    return cast(Any, jax.default_matmul_precision(asked))


def with_products(function: Callable[..., Any], asked: Asked | None) -> Callable[..., Any]:
    """The function with its products made so, those of its derivative too.

    A block around its call would miss the latter where they are traced later, as those of a
    `jax.custom_vjp` are.

    Args:
      function: of arrays; what it is differentiated by are its arguments.
      asked: None gives the function itself.
    """
    if asked is None:
        return function

    @jax.custom_vjp
    def run(*args: Any) -> Any:
        with products(asked):
            return function(*args)

    def forward(*args: Any) -> Any:
        with products(asked):
            return jax.vjp(function, *args)

    def backward(derivative: Any, change: Any) -> Any:
        with products(asked):
            return derivative(change)

    run.defvjp(forward, backward)
    return run
