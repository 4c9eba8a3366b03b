"""What a pretraining config comes to: images, schedule, averages, queues, groups, cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.benchmarking import scaling
from rcmstr_jax.data.pipeline import train_batches
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.metrics.tables import markdown_table
from rcmstr_jax.runtime.compilation import QUICKLY
from rcmstr_jax.ssl.momentum import momentum_schedule
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.gradients import term_gradients
from rcmstr_jax.training.optimizer import make_optimizer, make_schedule
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from rcmstr_jax.training.state import fresh_state

# The shipped recipes, in the order of the page; the rungs that are left out differ from their
# neighbours in the terms alone.
SHIPPED = (
    *("rcmstr_cnn", "rcmstr_cnn:step"),
    *("rcmstr_vit:tiny", "rcmstr_vit:small", "rcmstr_vit:base"),
    *(f"ablation:{rung}" for rung in ("seqmoco_no_relation", "inter")),
    *(f"ablation:{rung},recipe=ancestor" for rung in ("seqmoco_no_relation", "inter")),
    *("mini", "mini:vit", "mim", "mim:vit"),
    *("compact", "compact:mini"),
)
HEAD = """# What the shipped recipes come to

Written by `python launch/benchmark.py --what=recipe`; with `--config=NAME:VARIANT` it writes one of
them, with whatever is overridden, and `--gradients=N` measures on N rendered words how strongly
each term pulls at the encoder of a fresh state. To be held against METHOD.md 7, line by line. Rungs
of the ablation between those shown differ from them in the terms alone.

- Bars show the learning rate at equal distances of images, of its largest.
- Horizon: images after which 1/e of the old parameters is left in the moving average.
- A queue's depth is that of this batch size; `K` itself is rounded down to whole steps.
- Batch statistics: images that are normalised together.
- Predicted cost: matrix products of the training step as traced, times the images; the hours are
  arithmetic on the maker's figures, nothing was timed."""
SHARE = 0.4  # of the peak, by matrix products: a prediction, as in docs/scaling.md
BARS = "▁▂▃▄▅▆▇█"
POINTS = 24  # of a schedule's picture
DEVICES = 8  # beside one, for the groups of batch statistics


def page(name: str, config: Mapping[str, Any], *, costs: bool = True, gradients: int = 0) -> str:
    """The page of a recipe, Markdown.

    Args:
      name: as `--config` takes it.
      config: of pretraining.
      costs: count what a step computes, which traces it.
      gradients: images whose gradients at initialisation are measured, part by part; 0: none.

    Raises:
      ConfigError: if the config cannot work.
    """
    plan = pretrain_plan(config)
    rows = [["`" + name + "`", ""], *([key, said] for key, said in facts(plan))]
    if costs:
        rows.append(["predicted cost", cost(plan)])
    if gradients:
        rows.append([f"gradient norms at the start, {gradients} images", initial(plan, gradients)])
    return f"## {name}\n\n{markdown_table(rows)}"


def facts(plan: PretrainPlan) -> Iterator[tuple[str, str]]:
    """(what, its value) of all that follows from the plan."""
    batch, steps, optimizer = plan.loop.batch_size, plan.loop.total_steps, plan.optimizer
    yield "images", f"{steps * batch:,}: {steps:,} steps of {batch:,}"
    yield "optimiser", describe_optimizer(plan)
    schedule = make_schedule(optimizer)
    at = np.linspace(0, steps - 1, POINTS).astype(int)
    rates = np.asarray([float(schedule(step)) for step in at])
    drops = [f"{round(share * steps) * batch:,}" for share in optimizer.milestones]
    named = optimizer.schedule
    if named == "step":
        named += f", a tenth after {' and '.join(drops)} images"
    warm = optimizer.warmup_steps * batch
    yield (
        "rate over images",
        (
            f"`{bars(rates)}` {named}, warm-up {warm:,} images, from {rates[0]:.3g} over "
            f"{rates.max():.3g} to {rates[-1]:.3g}"
        ),
    )
    yield "moving average", describe_average(plan, at)
    views = plan.views
    yield (
        "views",
        "the image itself"
        if views is None
        else (
            f"{views.min_ops} to {views.max_ops} operations"
            + (", colours" if views.colour is not None else "")
        ),
    )
    rearrange = plan.rearrange
    yield (
        "rearranged",
        "no"
        if rearrange is None
        else (
            f"{rearrange.group} images of {rearrange.blocks} blocks, a permutation per "
            + ("batch" if rearrange.shared_permutation else "group")
        ),
    )
    contrast = plan.contrast
    yield "contrast", ", ".join(contrast.hierarchies) or "none"
    pairs = [pair.replace("_", " to ") for pair in contrast.pairs]
    yield (
        "relations",
        "none"
        if not contrast.relation
        else (
            f"α {contrast.alpha:g}, {contrast.kl_reduction}; between: {', '.join(pairs) or 'none'}"
            + (f", β {contrast.beta:g}" if contrast.beta else "")
        ),
    )
    for queue, size in plan.queue_sizes.items():
        added = plan.keys_per_image[queue] * batch
        yield (
            f"queue of {queue} keys",
            (f"{size:,}: {size // added} steps, {size // plan.keys_per_image[queue]:,} images"),
        )
    yield "batch statistics", describe_groups(plan)
    mask = plan.mask
    yield (
        "masked",
        "no"
        if mask is None
        else (
            f"{mask.kind}, {1 - mask.visible / math.prod(mask.grid):.0%} of {mask.grid[0]} x "
            f"{mask.grid[1]} patches"
            + (f", block {mask.block_ratio:g} of the columns" if "block" in mask.kind else "")
            + f"; λ {mask.weight:g}"
            + (", features of the momentum branch" if mask.target == "momentum" else "")
            + ("" if mask.normalize_targets else ", raw pixels")
        ),
    )


def describe_optimizer(plan: PretrainPlan) -> str:
    """Name, rate for the batch, momentum, decay and clipping."""
    optimizer = plan.optimizer
    own = f"momentum {optimizer.momentum:g}"
    if optimizer.name == "adamw":
        own = f"β ({optimizer.b1:g}, {optimizer.b2:g})"
    decay = f"decay {optimizer.weight_decay:g}"
    decay += "" if optimizer.decay_vectors else " of kernels"
    clip = f"clip {optimizer.clip:g}" if optimizer.clip else "no clip"
    per_image = optimizer.peak / plan.loop.batch_size
    rate = f"{optimizer.peak:.4g} ({per_image:.3g} an image)"
    drop = f", drop path to {plan.drop_path:g}" if plan.drop_path else ""
    return f"{optimizer.name}, {rate}, {own}, {decay}, {clip}{drop}"


def describe_average(plan: PretrainPlan, steps: np.ndarray) -> str:
    """Share kept in a step, and the images after which 1/e of the old parameters is left."""
    batch, moving = plan.loop.batch_size, plan.momentum
    kept = [
        float(
            momentum_schedule(
                jnp.asarray(step),
                plan.loop.total_steps,
                moving.value,
                moving.final,
                moving.exponent,
            )
        )
        for step in (steps[0], steps[-1])
    ]
    horizons = [f"{-batch / math.log(value):,.0f}" if value < 1 else "all" for value in kept]
    if moving.final is None:
        return f"{kept[0]:.5g} a step, horizon {horizons[0]} images"
    return (
        f"{kept[0]:.5g} rising to {kept[1]:.5g} a step, horizon {horizons[0]} to "
        f"{horizons[1]} images"
    )


def describe_groups(plan: PretrainPlan) -> str:
    """Images that are normalised together, on one device and on several."""
    if plan.model.encoder == "vit":
        return "none"
    batch, parts = plan.loop.batch_size, plan.loop.accumulation

    def groups(devices: int) -> str:
        count = 1 if plan.key_norm == "sync" and parts == 1 else devices * parts
        return f"{count} of {batch // count} images on {devices} device{'s' * (devices > 1)}"

    several = "" if batch % DEVICES else f", {groups(DEVICES)}"
    keys = f", keys in {plan.key_groups} groups of these" if plan.key_groups > 1 else ""
    return f"{plan.key_norm}: {groups(1)}{several}{keys}"


def bars(values: np.ndarray) -> str:
    """Numbers from 0 to their largest as a line of blocks."""
    top = max(float(values.max()), 1e-30)
    return "".join(BARS[min(int(value / top * len(BARS)), len(BARS) - 1)] for value in values)


def cost(plan: PretrainPlan) -> str:
    """Products and sums of the run, counted, and what a named accelerator would take."""
    if plan.mask is not None and plan.mask.form == "auto":  # as on a TPU, where none was measured
        plan = dataclasses.replace(plan, mask=dataclasses.replace(plan.mask, form="masked_dense"))
    group = plan.rearrange.group if plan.rearrange else 2
    sizes = {name: plan.keys_per_image[name] * group for name in plan.queue_sizes}
    # Keys of few images must fill a queue in whole steps: the nearest size that they do.
    queues = {name: size // sizes[name] * sizes[name] for name, size in plan.queue_sizes.items()}
    small = dataclasses.replace(plan, queue_sizes=queues)
    each = scaling.step_flops(small, group) / group
    total = each * plan.loop.total_steps * plan.loop.batch_size
    chip = scaling.V5P
    hours = total / (SHARE * chip.peak) / 3600
    return (
        f"{each / 1e9:.3g} GFLOP an image, {total / 1e18:.3g} EFLOP; {hours:.3g} h on one "
        f"{chip.name} at {SHARE:.0%} of its bfloat16 peak"
    )


def initial(plan: PretrainPlan, images: int) -> str:
    """Norms of the encoder's gradient at initialisation, on words as the renderer makes them."""
    batch = next(
        iter(
            train_batches(
                open_source(("synthetic:0",), synthetic_options=dict(plan.data.synthetic)),
                batch_size=images,
                image_size=plan.model.image_size,
                seed=plan.seed,
                prefetch=0,
            )
        )
    )
    model = build_model(plan)
    state = fresh_state(plan, model, make_optimizer(plan.optimizer)[0])
    norms = jax.jit(term_gradients(plan, model), compiler_options=QUICKLY)(state, batch)
    return ", ".join(f"{name.partition('/')[2]} {float(norm):.3g}" for name, norm in norms.items())
