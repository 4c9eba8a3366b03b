"""Step time predicted for machines that are not at hand, from what a step computes and exchanges.

A model on paper, with four assumptions and nothing measured:

* matrix products and convolutions run at a stated share of the chip's peak, and nothing else takes
  time;
* every exchange runs on a ring, over a single link in one direction, after the computation: none is
  hidden behind it;
* a ring of n chips adds the latency of n - 1 hops per kind of exchange, because the compiler
  combines exchanges of a kind;
* memory suffices.

The second is pessimistic: a chip of a torus has six links, and gradients of the last layers can
travel while those of the first are computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rcmstr_jax.benchmarking.collectives import Collective, collectives_in
from rcmstr_jax.benchmarking.loss import queries_per_image, queues_met
from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.runtime import parallel
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.pretrain_step import make_pretrain_step
from rcmstr_jax.training.state import PretrainState, fresh_state


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator, as its maker describes it.

    Attributes:
      name: of the chip.
      source: where the figures come from.
      peak: products and sums per second, bfloat16.
      memory: bytes.
      memory_bandwidth: bytes per second.
      link: bytes per second over one link in one direction.
    """

    name: str
    source: str
    peak: float
    memory: float
    memory_bandwidth: float
    link: float


# 1200 GB/s over six links of a 3D torus, in both directions together.
V5P = Chip("TPU v5p", "https://docs.cloud.google.com/tpu/docs/v5p", 459e12, 95e9, 2765e9, 100e9)
# JAX's `device_kind` -> chip. Links: 300 GB/s over six; 400 and 800 GB/s over four.
CHIPS = {
    "TPU v4": Chip(
        "TPU v4", "https://docs.cloud.google.com/tpu/docs/v4", 275e12, 32e9, 1228e9, 50e9
    ),
    "TPU v5": V5P,
    "TPU v5 lite": Chip(
        "TPU v5e", "https://docs.cloud.google.com/tpu/docs/v5e", 197e12, 16e9, 819e9, 50e9
    ),
    "TPU v6 lite": Chip(
        "TPU v6e", "https://docs.cloud.google.com/tpu/docs/v6e", 918e12, 32e9, 1638e9, 100e9
    ),
}
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of a step.

    Attributes:
      compute: products and convolutions.
      exchange: by kind, bandwidth and latency together.
    """

    compute: float
    exchange: dict[str, float]

    @property
    def step(self) -> float:
        """Of the whole step."""
        return self.compute + sum(self.exchange.values())

    @property
    def efficiency(self) -> float:
        """Share of the step that computes: speed per chip, relative to a chip that is alone."""
        return self.compute / self.step

    @property
    def dominant(self) -> str:
        """What takes most of the step."""
        parts = {"compute": self.compute, **self.exchange}
        return max(parts, key=lambda name: parts[name])


def abstract_step(plan: PretrainPlan, rows: int) -> tuple[PretrainState, dict[str, Any], Any]:
    """State and batch of one device as shapes, and a function axis name -> step."""
    optimizer, schedule = make_optimizer(plan.optimizer)
    state = jax.eval_shape(lambda: fresh_state(plan, build_model(plan), optimizer))
    batch = {
        "image": jax.ShapeDtypeStruct((rows, *plan.model.image_size, 3), np.uint8),
        "index": jax.ShapeDtypeStruct((rows,), np.int32),
    }

    def step(axis_name: str | None) -> Any:
        return make_pretrain_step(
            plan, build_model(plan, axis_name), optimizer, schedule, axis_name
        )

    return state, batch, step


def lower_step(plan: PretrainPlan, devices: Sequence[Any] | None = None) -> Any:
    """The step as training runs it, for the devices at hand or for others; `.compile()` follows.

    Args:
      plan: of a run; its batch is divided over the devices.
      devices: to compile for, a topology's for example.
    """
    count = len(devices) if devices is not None else jax.local_device_count()
    state, batch, step = abstract_step(plan, plan.loop.batch_size // count)
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), (state, batch))
    return parallel.pmap_step(step(parallel.AXIS), devices).lower(*wide)


def step_collectives(plan: PretrainPlan) -> list[Collective]:
    """Compiles the step for all local devices and reads its exchanges; nothing is run.

    Args:
      plan: of a run; its batch is divided over the devices.
    """
    compiled = lower_step(plan).compile()
    return collectives_in(compiled.as_text(), jax.local_device_count())


def step_flops(plan: PretrainPlan, rows: int) -> float:
    """Products and sums of one device's step on `rows` images, in products and convolutions."""
    state, batch, step = abstract_step(plan, rows)
    return matrix_operations(step(None), state, batch)


def predict(
    flops: float,
    collectives: Sequence[Collective],
    *,
    chips: int,
    rows_factor: float,
    chip: Chip = V5P,
    share: float = 0.4,
) -> Prediction:
    """Step time on a number of chips.

    Args:
      flops: of one chip.
      collectives: read from a program of the same rows per chip on another number of chips.
      chips: that share the step.
      rows_factor: global batch here over that of the program: gathered rows grow with it, reduced
        arrays do not.
      chip: the hardware.
      share: of the peak that products and convolutions reach.
    """
    exchange: dict[str, float] = {}
    for collective in collectives:
        grows = collective.kind in ("all-gather", "all-to-all")
        here = collective._replace(
            size=round(collective.size * (rows_factor if grows else 1)), group=chips
        )
        exchange[here.kind] = exchange.get(here.kind, 0.0) + here.sent / chip.link
    latency = (chips - 1) * HOP_SECONDS
    return Prediction(
        flops / (chip.peak * share), {kind: t + latency for kind, t in exchange.items()}
    )


@dataclasses.dataclass(frozen=True)
class QueueCosts:
    """Replicated against sharded queues.

    Attributes:
      replicated: bytes of all queues on every chip, old and new contents of a step.
      read: seconds in which a chip reads them for one step's losses, forward and backward.
      gathered: seconds in which a ring exchanges the queries (there, and their gradients back) that
        sharded queues would need on every chip.
      largest: entries per queue at which a tenth of the chip's memory is filled.
      break_even: entries per queue at which reading takes as long as that exchange.
    """

    replicated: int
    read: float
    gathered: float
    largest: int
    break_even: int


def queue_costs(plan: PretrainPlan, rows: int, chips: int, chip: Chip = V5P) -> QueueCosts:
    """What the queues cost a chip with `rows` images per step.

    With sharded queues a chip holds one part of every queue and compares the queries of all chips
    with it: the same number of products, less memory to hold and to read, and queries to exchange.
    """
    options, entry = plan.contrast, 4 * plan.model.predict_dim
    sizes, met = plan.queue_sizes, queues_met(options)
    queries = queries_per_image(
        options, plan.model.vectors(plan.subwords), views=2 if plan.rearrange else 1
    )
    passes = 2
    # All chips' queries go to every chip, and partial gradients come back: a gather and a scatter.
    gathered = 2 * (chips - 1) * rows * queries * entry / chip.link
    return QueueCosts(
        replicated=2 * sum(sizes.values()) * entry,
        read=passes * sum(sizes[name] for name in met) * entry / chip.memory_bandwidth,
        gathered=gathered,
        largest=int(0.1 * chip.memory / (2 * len(sizes) * entry)),
        break_even=int(gathered * chip.memory_bandwidth / (passes * len(met) * entry)),
    )
