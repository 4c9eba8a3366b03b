"""Tables of a config at scale: what its step exchanges, predicted times, queues."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rcmstr_jax.benchmarking import scaling
from rcmstr_jax.benchmarking.collectives import Collective
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan

DEVICES = 8  # that the step is compiled for
# Before the first device is used. The machine code is thrown away: it need not be good.
XLA_FLAGS = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"


def report(config: Mapping[str, Any], chips: Sequence[int], share: float) -> Iterator[str]:
    """Markdown, part by part; compiles the step (minutes) and runs nothing.

    Args:
      config: of pretraining.
      chips: numbers of them.
      share: of the peak that products reach.

    Raises:
      ConfigError: if the config cannot work on eight devices.
    """
    plan = pretrain_plan(config, devices=DEVICES)
    if plan.mask is not None and plan.mask.form == "auto":
        # What "auto" takes on a TPU, where none was measured.
        plan = dataclasses.replace(plan, mask=dataclasses.replace(plan.mask, form="masked_dense"))
    found = scaling.step_collectives(plan)
    rows = plan.loop.batch_size // DEVICES
    known: dict[tuple[int, ...], float] = {}  # by the sizes of the queues
    flops = rows * word_flops(plan, known)
    yield f"Compiled: {DEVICES} devices, {rows} words each; {flops / 1e12:.2f} TFLOP per device."
    if plan.mask is not None and plan.model.convolutional:
        yield f"Masked images: --config.mim.form={plan.mask.form}."
    yield "\n" + "\n".join(exchange_table(found))
    for fixed in ("words per chip", "global batch"):
        yield f"\n{scaling.V5P.name}, fixed {fixed}:\n"
        yield "\n".join(prediction_table(plan, found, fixed, known, chips, share))
    yield f"\nQueues, {rows} words per chip:\n"
    yield "\n".join(queue_table(plan, chips))


def row(*cells: object) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def exchange_table(collectives: Iterable[Collective]) -> list[str]:
    """One line per kind and array; reduced arrays of one kind and type together."""
    grouped: dict[tuple[str, str], list[Collective]] = collections.defaultdict(list)
    for collective in collectives:
        types = {array.split("[")[0] for array in collective.arrays}
        several = collective.kind == "all-reduce"
        what = " ".join(sorted(types)) if several else " ".join(collective.arrays)
        grouped[collective.kind, what].append(collective)
    lines = [row("exchange", "arrays", "bytes", "sent by a chip"), row("---", "---", "--:", "--:")]
    for (kind, what), found in sorted(grouped.items(), key=lambda item: -item[1][0].size):
        arrays = sum(len(collective.arrays) for collective in found)
        size, sent = sum(c.size for c in found), sum(c.sent for c in found)
        lines.append(row(kind, f"{arrays} × {what}", f"{size:,}", f"{sent:,.0f}"))
    return lines


def at_scale(plan: PretrainPlan, chips: int, rows: int) -> PretrainPlan:
    """The plan for a larger batch; a queue holds the keys of one step at least."""
    keys = chips * rows * max(plan.keys_per_image[name] for name in plan.contrast.queues)
    contrast = plan.config["contrast"]
    contrast = {**contrast, "queue_size": max(contrast["queue_size"], keys)}
    larger = pretrain_plan({**plan.config, "batch_size": chips * rows, "contrast": contrast})
    return dataclasses.replace(larger, mask=plan.mask)


def group_size(plan: PretrainPlan) -> int:
    """Words that a chip must have at least, and a multiple of."""
    return plan.rearrange.group if plan.rearrange else 1


def word_flops(plan: PretrainPlan, known: dict[tuple[int, ...], float]) -> float:
    """Products and sums per word: they grow with the words, and otherwise with the queues alone."""
    sizes, rows = tuple(plan.queue_sizes.values()), group_size(plan)
    if sizes not in known:
        known[sizes] = scaling.step_flops(plan, rows) / rows
    return known[sizes]


def prediction_table(
    plan: PretrainPlan,
    found: Sequence[Collective],
    fixed: str,
    known: dict[tuple[int, ...], float],
    numbers: Sequence[int],
    share: float,
) -> list[str]:
    """Predicted steps with the words per chip fixed, or the global batch."""
    lines = [
        row("chips", "words per chip", "global batch", "compute ms", "exchange ms", "step ms",
            "efficiency", "words/s", "largest term"),
        row(*["--:"] * 8, "---"),
    ]  # fmt: skip
    group = group_size(plan)
    for chips in numbers:
        rows = plan.loop.batch_size // (DEVICES if fixed == "words per chip" else chips)
        if not rows or rows % group:
            lines.append(row(chips, f"fewer than {group}", plan.loop.batch_size, *["-"] * 6))
            continue
        batch = rows * chips
        flops = rows * word_flops(at_scale(plan, chips, rows), known)
        p = scaling.predict(
            flops, found, chips=chips, rows_factor=batch / plan.loop.batch_size, share=share
        )
        lines.append(
            row(chips, rows, f"{batch:,}", f"{1e3 * p.compute:.2f}",
                f"{1e3 * (p.step - p.compute):.2f}", f"{1e3 * p.step:.2f}",
                f"{100 * p.efficiency:.0f} %", f"{batch / p.step:,.0f}", p.dominant)
        )  # fmt: skip
    return lines


def queue_table(plan: PretrainPlan, numbers: Sequence[int]) -> list[str]:
    """Replicated against sharded queues."""
    lines = [
        row("chips", "entries", "replicated, bytes per chip", "read ms", "exchange if sharded ms",
            "entries that fill a tenth of the memory", "entries at which sharding is faster"),
        row(*["--:"] * 7),
    ]  # fmt: skip
    rows = plan.loop.batch_size // DEVICES
    for chips in numbers:
        scaled = at_scale(plan, chips, rows)
        costs = scaling.queue_costs(scaled, rows, chips)
        lines.append(
            row(chips, f"{scaled.config['contrast']['queue_size']:,}", f"{costs.replicated:,}",
                f"{1e3 * costs.read:.2f}", f"{1e3 * costs.gathered:.2f}", f"{costs.largest:,}",
                f"{costs.break_even:,}")
        )  # fmt: skip
    return lines
