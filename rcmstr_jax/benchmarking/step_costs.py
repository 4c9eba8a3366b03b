"""What a step of pretraining computes and moves, term by term, and the least time that takes.

Nothing is trained: the parts of the step are traced, and their matrix products and convolutions
counted. Bytes are those of memory that no arrangement of the step avoids:

- every matrix product and convolution reads its operands and writes its result; those of the loss
  stay in the cache and only read the queue, once forward and once backward;
- batch normalisation reads a result twice and writes it once, backward it reads two arrays twice
  and writes one;
- the optimiser reads gradients and reads and writes parameters and its own state, the momentum
  branch is read and written beside the parameters, every queue is read and written;
- a view is filtered, resampled and filtered, each reading and writing the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.benchmarking.loss import input_shapes, loss_function, queues_met
from rcmstr_jax.benchmarking.matrix_work import matrix_operations, matrix_work
from rcmstr_jax.benchmarking.timing import ceilings, highest_rate, memory_pass, time_in_turns
from rcmstr_jax.metrics.tables import markdown_table
from rcmstr_jax.models.hierarchy import pool_frames
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan
from rcmstr_jax.training.state import fresh_state

_VIEW_STAGES = 3


@dataclasses.dataclass(frozen=True)
class Term:
    """A part of a step.

    Attributes:
      name: what it is.
      operations: multiplications and additions of its matrix products and convolutions.
      bytes: read from memory and written.
    """

    name: str
    operations: float
    bytes: float

    def times(self, count: int) -> Term:
        """The same so many times."""
        name = f"{self.name}, {count} passes" if count > 1 else self.name
        return Term(name, count * self.operations, count * self.bytes)


def step_terms(plan: PretrainPlan) -> list[Term]:
    """The terms of one step of all images of a batch.

    Args:
      plan: of a run whose masked pass, if any, is decoupled.
    """
    model = build_model(plan)
    optimizer, _ = make_optimizer(plan.optimizer)
    state = jax.eval_shape(lambda: fresh_state(plan, model, optimizer))
    variables = ({**state.params, **state.frozen_params}, state.batch_stats)
    pixels = (plan.loop.batch_size, *plan.model.image_size, 3)
    images = jax.ShapeDtypeStruct(pixels, jnp.float32)

    def part(method: Callable[..., Any] | str) -> Callable[..., Any]:
        def run(params: Any, stats: Any, *args: Any) -> Any:
            weights = {"params": params, "batch_stats": stats}
            return model.apply(weights, *args, method=method, mutable=["batch_stats"])[0]

        return run

    encode = part(lambda m, x: pool_frames(m.encoder(x, train=True)[0]))
    frames = jax.eval_shape(encode, *variables, images)
    heads = part(lambda m, x: m.predict(m.project_frames(x)))
    norms = (3, 5) if plan.model.convolutional else (0, 0)

    def both(
        name: str, run: Callable[..., Any], *args: Any, norms: tuple[int, int] = (0, 0)
    ) -> tuple[Term, Term]:
        """Forward alone, and with the backward pass; of `frames` the gradient is needed too.

        `norms` are the times that a norm goes over a result, forward and backward.
        """
        gradient = jax.grad(_total(run), argnums=(0, 2) if args[0] is frames else 0)
        alone = matrix_work(run, *variables, *args)
        whole = matrix_work(gradient, *variables, *args)
        keys = alone.read + alone.written * (1 + norms[0])
        queries = whole.read + whole.written + alone.written * sum(norms)
        return (
            Term(f"{name}, keys", alone.operations, keys),
            Term(f"{name}, queries", whole.operations, queries),
        )

    views, masked = 1 + (plan.rearrange is not None), plan.mask is not None
    size = float(np.prod(pixels))
    terms = [Term("two views", 0, 2 * (size + _VIEW_STAGES * 2 * 4 * size))]
    if model.rectifier is not None:
        work = matrix_work(part("rectify"), *variables, images)
        term = Term("rectifier", work.operations, work.read + work.written)
        terms.append(term.times(1 + views + masked))
    for keys, queries in (
        both("encoder", encode, images, norms=norms),
        both("projector and predictors", heads, frames),
    ):
        terms += [keys, queries.times(views)]
    if plan.mask is not None:
        mask = jax.ShapeDtypeStruct((plan.loop.batch_size, *plan.mask.grid), jnp.bool_)
        reconstruct = part(lambda m, x, hidden: m.reconstruct(x, hidden, train=True)[0])
        term = both("masked pass", reconstruct, images, mask, norms=norms)[1]
        terms.append(dataclasses.replace(term, name="masked pass"))
    inputs = input_shapes(
        plan.contrast,
        plan.model.vectors(plan.subwords),
        plan.queue_sizes,
        plan.loop.batch_size,
        views=views,
        dim=plan.model.predict_dim,
    )
    read = sum(_bytes(inputs.before[name]) for name in queues_met(plan.contrast))
    terms.append(Term("loss", matrix_operations(loss_function(plan.contrast), inputs), 2 * read))
    online, momentum = _bytes(state.params), _bytes(state.momentum_params)
    kept = 2 * (_bytes(state.opt_state) + momentum + _bytes(state.queues))
    terms.append(Term("optimiser, momentum, queues", 0, 4 * online + kept))
    return terms


def _total(function: Callable[..., Any]) -> Callable[..., Any]:
    def total(*args: Any) -> Any:
        return sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(function(*args)))

    return total


def _bytes(tree: Any) -> float:
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def table(
    terms: Sequence[Term], batch: int, operation_rate: float, byte_rate: float
) -> list[list[str]]:
    """Operations and bytes per image, and the floor of a step in seconds; first the header.

    The floor of a term is as long as the slower of computing and moving takes.
    """

    def row(term: Term, floor: float, bound: str) -> list[str]:
        costs = f"{term.operations / batch / 1e9:.2f}", f"{term.bytes / batch / 1e6:.2f}"
        return [term.name, *costs, f"{floor:.3g}", bound]

    floors = [max(term.operations / operation_rate, term.bytes / byte_rate) for term in terms]
    total = Term("sum", sum(term.operations for term in terms), sum(term.bytes for term in terms))
    return [
        ["term", "GFLOP per image", "MB per image", "floor of the step, s", "bound by"],
        *(
            row(term, floor, "products" if floor == term.operations / operation_rate else "memory")
            for term, floor in zip(terms, floors, strict=True)
        ),
        row(total, sum(floors), ""),
    ]


def report(plan: PretrainPlan, repeats: int) -> str:
    """Measures what this machine does at best, and prints the table beside it."""
    highest = ceilings(plan.model.dtype)
    memory, moved = memory_pass()
    samples = time_in_turns({**highest, "memory": memory}, repeats)
    rates = {name: highest_rate(program, samples[name]) for name, program in highest.items()}
    byte_rate = moved / samples["memory"].fastest
    terms = step_terms(plan)
    rows = table(terms, plan.loop.batch_size, max(rates.values()), byte_rate)
    speeds = [f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in rates.items()]
    said = ", ".join([*speeds, f"memory {byte_rate / 1e9:.1f} GB/s"])
    return f"{said}\n{markdown_table(rows)}"
