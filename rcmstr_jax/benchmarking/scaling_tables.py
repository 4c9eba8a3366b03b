"""Tables of a config at scale: what its step exchanges, predicted times, queues."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rcmstr_jax.benchmarking import scaling
from rcmstr_jax.benchmarking.collectives import Collective
from rcmstr_jax.metrics.tables import markdown_table
from rcmstr_jax.ssl.queue import queue_size
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
    batch = plan.loop.batch_size
    rows = batch // DEVICES
    # A chip has at least so many words, and a multiple of them.
    group = plan.rearrange.group if plan.rearrange else 1

    @functools.cache
    def word_flops(sizes: tuple[int, ...]) -> float:
        """Products and sums per word: they grow with the words, and else with the queues alone."""
        queues = dict(zip(plan.queue_sizes, sizes, strict=True))
        return scaling.step_flops(dataclasses.replace(plan, queue_sizes=queues), group) / group

    def predict(chips: int, rows: int) -> scaling.Prediction:
        sizes = queues_at(plan, chips * rows)[1]
        flops = rows * word_flops(tuple(sizes.values()))
        factor = chips * rows / batch
        return scaling.predict(flops, found, chips=chips, rows_factor=factor, share=share)

    flops = rows * word_flops(tuple(plan.queue_sizes.values()))
    yield f"Compiled: {DEVICES} devices, {rows} words each; {flops / 1e12:.2f} TFLOP per device."
    if plan.mask is not None and plan.model.convolutional:
        yield f"Masked images: --config.mim.form={plan.mask.form}."
    yield f"\n{markdown_table(exchange_rows(found))}"
    for fixed, rows_at in (
        ("words per chip", dict.fromkeys(chips, rows)),
        ("global batch", {count: batch // count for count in chips}),
    ):
        yield f"\n{scaling.V5P.name}, fixed {fixed}:\n"
        header = (
            "chips,words per chip,global batch,compute ms,exchange ms,step ms,efficiency,words/s"
        )
        table = [[*header.split(","), "largest term"]]
        for count, here in rows_at.items():
            if not here or here % group:
                table.append([str(count), f"fewer than {group}", str(batch), *["-"] * 6])
            else:
                cells = prediction_cells(predict(count, here), count * here)
                table.append([str(count), str(here), *cells])
        yield markdown_table(table)
    yield f"\nQueues, {rows} words per chip:\n"
    yield markdown_table(queue_rows(plan, rows, chips))


def queues_at(plan: PretrainPlan, batch: int) -> tuple[int, dict[str, int]]:
    """Entries that are asked for with a larger batch, and those of every queue.

    A queue holds the keys of one step at least.
    """
    count = {name: plan.keys_per_image[name] for name in plan.contrast.queues}
    entries = max(plan.config["contrast"]["queue_size"], batch * max(count.values()))
    return entries, {name: queue_size(entries, batch * keys) for name, keys in count.items()}


def exchange_rows(collectives: Iterable[Collective]) -> list[list[str]]:
    """One row per kind and array; reduced arrays of one kind and type together."""
    grouped: dict[tuple[str, str], list[Collective]] = collections.defaultdict(list)
    for collective in collectives:
        types = {array.split("[")[0] for array in collective.arrays}
        several = collective.kind == "all-reduce"
        what = " ".join(sorted(types)) if several else " ".join(collective.arrays)
        grouped[collective.kind, what].append(collective)
    rows = [["exchange", "arrays", "bytes", "sent by a chip"]]
    for (kind, what), found in sorted(grouped.items(), key=lambda item: -item[1][0].size):
        arrays = sum(len(collective.arrays) for collective in found)
        size, sent = sum(c.size for c in found), sum(c.sent for c in found)
        rows.append([kind, f"{arrays} × {what}", f"{size:,}", f"{sent:,.0f}"])
    return rows


def prediction_cells(found: scaling.Prediction, batch: int) -> list[str]:
    """A predicted step, from its global batch on."""
    times = (found.compute, found.step - found.compute, found.step)
    share, speed = f"{100 * found.efficiency:.0f} %", f"{batch / found.step:,.0f}"
    return [f"{batch:,}", *(f"{1e3 * t:.2f}" for t in times), share, speed, found.dominant]


def queue_rows(plan: PretrainPlan, rows: int, numbers: Sequence[int]) -> list[list[str]]:
    """Replicated against sharded queues, with `rows` words per chip."""
    header = "chips,entries,replicated bytes per chip,read ms,exchange if sharded ms"
    limits = ["entries that fill a tenth of the memory", "entries at which sharding is faster"]
    table = [[*header.split(","), *limits]]
    for chips in numbers:
        entries, sizes = queues_at(plan, chips * rows)
        costs = scaling.queue_costs(dataclasses.replace(plan, queue_sizes=sizes), rows, chips)
        times = [f"{1e3 * seconds:.2f}" for seconds in (costs.read, costs.gathered)]
        limits = [f"{costs.largest:,}", f"{costs.break_even:,}"]
        table.append([str(chips), f"{entries:,}", f"{costs.replicated:,}", *times, *limits])
    return table
