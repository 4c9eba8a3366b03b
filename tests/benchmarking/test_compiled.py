"""What the compiler says about a small step: for this machine, and for a TPU that is not here."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys

import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.benchmarking import compiled
from rcmstr_jax.benchmarking.compiled import CompiledStep, DoesNotFit, compile_step, find_target
from rcmstr_jax.benchmarking.program import operations_in
from rcmstr_jax.benchmarking.scaling import abstract_step
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.models.fused_attention import fused_attention
from rcmstr_jax.models.layers import convolve
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.ssl.relational import default_chunk
from rcmstr_jax.target import compiling_for, target_platform
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan


def small_config():
    """The test-size recipe with a ViT of one block, 32 pixels wide."""
    config = mini.get_config("test")
    config.model.update({"encoder": "vit", "width": 16, "depth": 1, "heads": 1, "image_width": 32})
    config.model.projector = "mlp"
    config.contrast.chunk = 64
    return config


@pytest.fixture(scope="module")
def lean() -> PretrainPlan:
    """Less: a single queue, no views and no masks."""
    config = small_config()
    config.contrast.update({"hierarchies": ("subword",), "pairs": (), "queue_size": 64})
    config.views.enabled = False
    config.mim.enabled = False
    return pretrain_plan(config, devices=4)


def test_choices_by_platform_follow_the_target() -> None:
    image, kernel = jnp.ones((1, 4, 8, 4)), jnp.ones((3, 3, 4, 4))

    def kernels() -> str:
        return str(jax.make_jaxpr(lambda x: convolve(x, kernel, (1, 1), (1, 1)))(image))

    here = default_chunk(), kernels()
    with compiling_for("tpu"):
        assert target_platform() == "tpu"
        there = default_chunk(), kernels()
    assert target_platform() == jax.default_backend() == "cpu"
    assert (here[0], there[0]) == (256, 512)
    # On CPU four columns of four channels are taken together; elsewhere the kernel stays.
    assert "f32[3,3,16,16]" in here[1] and "f32[3,3,16,16]" not in there[1]


def test_the_step_for_this_machine(lean: PretrainPlan) -> None:
    target = find_target("cpu")
    step = compile_step(lean, target)
    state, batch, _ = abstract_step(lean, 2)
    given = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state, batch)))
    assert step.arguments == pytest.approx(given, rel=0.01)
    assert step.held == step.arguments + step.results + step.temporaries + step.code
    # Every parameter is read at least twice (both branches) and written once.
    parameters = sum(4 * x.size for x in jax.tree.leaves(state.params))
    assert step.moved > 3 * parameters
    assert [o.moved for o in step.moving] == sorted((o.moved for o in step.moving), reverse=True)
    said = "\n".join(compiled.describe(step, target, 8))
    assert "it fits" in said and "all-reduce" in said and step.moving[0].name in said


@pytest.mark.slow
def test_the_test_size_step_for_a_tpu() -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install libtpu")
    target = find_target("v5e:2x2")
    plan = pretrain_plan(small_config(), devices=4)
    step = compile_step(plan, target)
    assert (target.platform, len(target.devices)) == ("tpu", 4)
    state, _, _ = abstract_step(plan, 2)
    assert step.arguments > sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert target.memory is not None and step.held < 0.01 * target.memory
    # Eight images to be dealt anew, in float32 or bfloat16, once; and one group of four chips.
    (images,) = (c for c in step.collectives if "[8,32,32,3]" in c.arrays[0])
    assert images.size in (8 * 32 * 32 * 3 * 2, 8 * 32 * 32 * 3 * 4) and images.group == 4
    said = "\n".join(compiled.describe(step, target, 8))
    assert "roofline of TPU v5e" in said and "words per second" in said


@pytest.mark.parametrize("heads", [4, 3])
def test_the_attention_kernel_for_a_tpu_moves_no_weights(heads: int) -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install libtpu")
    device = find_target("v5e:2x2").devices[0]
    shape = (4, 128, 3 * 64 * heads)
    qkv = jax.ShapeDtypeStruct(
        shape, jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device)
    )

    def gradient(qkv: jax.Array, out: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: fused_attention(x, heads), qkv)[1](out[..., : 64 * heads])[0]

    program = jax.jit(gradient).lower(qkv, qkv).compile()
    moved = sum(o.moved for o in operations_in(program.as_text()))
    # In, its gradient in and out, and at most once more; the weights would be 4 * heads * 128 ** 2.
    assert moved <= 4 * 2 * math.prod(shape)


def test_what_does_not_fit_is_told_with_the_parts_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    config.batch_size = 48  # twelve a device: in groups of two 2, 3 or 6 parts
    config.total_images = 144
    tried = []

    def compile_some(plan: PretrainPlan, target: compiled.Target) -> CompiledStep:
        tried.append(plan.loop.accumulation)
        if plan.loop.accumulation == 1:
            raise DoesNotFit("RESOURCE_EXHAUSTED: 20 GB of 16 GB")
        size = 120 // plan.loop.accumulation
        return CompiledStep(1.0, size, 0, 0, 0, 1.0, 1.0, (), ())

    monkeypatch.setattr(compiled, "compile_step", compile_some)
    target = dataclasses.replace(find_target("cpu"), memory=50)
    said = list(compiled.report(config, target))
    assert tried == [1, 2, 3]
    assert "20 GB of 16 GB" in said[1] and "fits with --config.accumulation=3" in said
    assert said[-1].startswith("3 | 1 | 0.00")  # its summary follows
    target = dataclasses.replace(target, memory=10)
    assert list(compiled.report(config, target))[-1].startswith("no accumulation makes it fit")


def test_topologies_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--topology=gpu: this machine has none"):
        find_target("gpu")
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ConfigError, match="pip install libtpu"):
        find_target("v5e:2x4")
