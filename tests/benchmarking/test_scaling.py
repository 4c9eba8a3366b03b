"""Predictions by hand: products counted, times added up, and what a known step exchanges."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.benchmarking.collectives import Collective
from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.benchmarking.scaling import (
    HOP_SECONDS,
    V5P,
    Prediction,
    abstract_step,
    predict,
    queue_costs,
    step_collectives,
    step_flops,
)
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan

CHIP = dataclasses.replace(V5P, peak=1e14, memory=1e9, memory_bandwidth=1e12, link=1e11)


def flops(function, *shapes) -> float:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return matrix_operations(function, *arguments)


def convolve(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_products_are_counted_once_per_round():
    product = 2 * 3 * 4 * 5
    assert flops(jnp.matmul, (3, 4), (4, 5)) == product
    assert flops(jax.jit(jnp.matmul), (7, 3, 4), (7, 4, 5)) == 7 * product
    # A gradient has two more products of the same size.
    assert flops(jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), (3, 4), (4, 5)) == 3 * product

    def loop(a, b):
        return jax.lax.scan(lambda carry, _: (carry @ b, None), a, length=6)[0]

    assert flops(loop, (3, 4), (4, 4)) == 6 * 2 * 3 * 4 * 4

    def branch(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b @ b)

    assert flops(branch, (3, 4), (4, 4)) == 2 * 2 * 3 * 4 * 4


def test_convolutions_agree_with_the_compiler():
    shapes = (2, 9, 12, 3), (2, 4, 3, 8)
    expected = 2 * (2 * 8 * 9 * 8) * (2 * 4 * 3)
    assert flops(convolve, *shapes) == expected
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    counted = jax.jit(convolve).lower(*arguments).cost_analysis()["flops"]
    assert counted == pytest.approx(expected, rel=1e-3)


def test_times_are_added_up():
    found = [
        Collective("all-reduce", ("f32[]",), 10**9, 8),
        Collective("all-gather", ("f32[]",), 10**8, 8),
        Collective("all-gather", ("f32[]",), 10**8, 8),
    ]
    here = predict(4e12, found, chips=8, rows_factor=1, chip=CHIP, share=0.5)
    latency = 7 * HOP_SECONDS
    assert here.compute == pytest.approx(0.08)
    assert here.exchange["all-reduce"] == pytest.approx(2 * 7 / 8 * 1e-2 + latency)
    assert here.exchange["all-gather"] == pytest.approx(2 * 7 / 8 * 1e-3 + latency)
    assert here.step == pytest.approx(0.08 + sum(here.exchange.values()))
    assert here.efficiency == pytest.approx(0.08 / here.step)
    assert here.dominant == "compute"
    # Eight times the rows on eight times the chips: what is reduced stays, what is gathered grows.
    there = predict(4e12, found, chips=64, rows_factor=8, chip=CHIP, share=0.5)
    assert there.exchange["all-reduce"] == pytest.approx(2 * 63 / 64 * 1e-2 + 63 * HOP_SECONDS)
    assert there.exchange["all-gather"] == pytest.approx(16 * 63 / 64 * 1e-3 + 63 * HOP_SECONDS)
    assert Prediction(1.0, {"all-gather": 2.0}).dominant == "all-gather"


def test_queues_are_weighed():
    config = mini.get_config("test")  # 26 frames, 4 sub-words, 1 word; entries of 16 numbers
    config.contrast.queue_size = 8 * 26 * 4
    costs = queue_costs(pretrain_plan(config), rows=2, chips=4, chip=CHIP)
    entries = 832 + 832 + 832
    assert costs.replicated == 2 * entries * 64
    # Read forward and backward: three queues by their hierarchies, two again by the pairs.
    assert costs.read == pytest.approx(2 * 5 * 832 * 64 / 1e12)
    # Two views of 31 vectors, 4 sub-words of 8 frames, one word of 4 sub-words.
    queries = 2 * (26 + 4 + 1) + 4 * 8 + 4
    assert costs.gathered == pytest.approx(2 * 3 * 2 * queries * 64 / 1e11)
    assert costs.largest == int(0.1 * 1e9 / (2 * 3 * 64))
    assert costs.break_even == int(costs.gathered / (2 * 5 * 64 / 1e12))


@pytest.fixture(scope="module")
def tiny() -> PretrainPlan:
    """A one-block ViT with one queue; keys are dealt."""
    config = mini.get_config("test")
    config.model.update({"encoder": "vit", "width": 16, "depth": 1, "heads": 1, "image_width": 32})
    config.model.projector = "mlp"
    config.contrast.hierarchies = ("subword",)
    config.contrast.pairs = ()
    config.contrast.queue_size = 64
    config.contrast.chunk = 64
    config.views.enabled = False
    config.mim.enabled = False
    config.key_norm = "shuffle"
    return pretrain_plan(config)


def test_what_a_real_step_exchanges(tiny):
    found = step_collectives(tiny)
    assert {collective.group for collective in found} == {4}
    gathered = sum(c.size for c in found if c.kind == "all-gather")
    images, keys = 8 * 32 * 32 * 3 * 4, 8 * 4 * 16 * 4
    # Images to be dealt anew, and keys, once: on their way back they are those for the queue.
    assert gathered == images + keys
    reduced = sum(c.size for c in found if c.kind == "all-reduce")
    params = abstract_step(tiny, 2)[0].params
    # Without masked images the mask token has no gradient to be exchanged.
    encoder = {k: v for k, v in params["encoder"].items() if k != "mask_token"}
    leaves = jax.tree.leaves({**params, "encoder": encoder})
    gradients = sum(leaf.size * 4 for leaf in leaves)
    # Beside the gradients only metrics, one number each.
    assert gradients < reduced < gradients + 4 * 100


def test_products_of_a_real_step_grow_with_the_words(tiny):
    assert step_flops(tiny, 4) == pytest.approx(2 * step_flops(tiny, 2), rel=1e-6)
