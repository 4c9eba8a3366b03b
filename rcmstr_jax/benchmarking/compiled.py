"""What the compiler says about the step of a config on chips that need not be at hand.

Compiled is the very program that training runs (`scaling.lower_step`), for the devices of a TPU
topology, whose compiler needs no TPU, or for those of this machine. Nothing is run. Seconds are
those of a roofline: products at the chip's peak or the bytes of main memory at its bandwidth,
whichever is slower, and then the exchanges, on a ring and none hidden.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from rcmstr_jax.benchmarking import scaling
from rcmstr_jax.benchmarking.collectives import Collective, collectives_in
from rcmstr_jax.benchmarking.program import Operation, operations_in, runs_of_computations
from rcmstr_jax.benchmarking.scaling_tables import exchange_rows
from rcmstr_jax.metrics.tables import markdown_table
from rcmstr_jax.runtime.config_files import config_from_jsonable, config_to_jsonable
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.target import compiling_for
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan

HERE = ("cpu", "gpu")
LISTED = 10
# libtpu asks the machine which TPU it has, unless it is told to leave that alone.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
      name: as it was asked for, "v5e:2x4" for example.
      platform: "cpu", "gpu" or "tpu".
      devices: of JAX, or of a topology.
      chip: its speeds; None where they are not known.
      memory: bytes of a device; None where they are not known.
    """

    name: str
    platform: str
    devices: Sequence[Any]
    chip: scaling.Chip | None
    memory: float | None


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled step, per device.

    Attributes:
      seconds: that the compiler took.
      arguments: bytes of the state and the batch.
      results: bytes of results that do not take the place of arguments.
      temporaries: bytes.
      code: bytes.
      operations: multiplications and additions of products and convolutions, loops multiplied out,
        or all operations as the compiler counts them, if those are more.
      accessed: bytes as the compiler counts them: of on-chip memories too, of loops one turn.
      moving: operations of the program by what they move in main memory, most first.
      collectives: its exchanges.
    """

    seconds: float
    arguments: int
    results: int
    temporaries: int
    code: int
    operations: float
    accessed: float
    moving: Sequence[Operation]
    collectives: Sequence[Collective]

    @property
    def held(self) -> int:
        """Bytes that a device needs to have."""
        return self.arguments + self.results + self.temporaries + self.code

    @property
    def moved(self) -> float:
        """Bytes read from main memory and written."""
        return sum(operation.moved for operation in self.moving)


class DoesNotFit(Exception):
    """The compiler found no program within the memory of a device; with its words."""


def find_target(topology: str) -> Target:
    """The devices that a name stands for.

    Args:
      topology: "cpu" or "gpu", which are those of this machine, or a TPU's generation and grid of
        chips, "v5e:2x4" for example.

    Raises:
      ConfigError: there are no such devices, or no compiler for them.
    """
    if topology in HERE:
        try:
            devices = jax.local_devices(backend=topology)
        except RuntimeError as error:
            raise ConfigError(f"--topology={topology}: this machine has none: {error}") from error
        stats = devices[0].memory_stats() or {}
        memory = stats.get("bytes_limit")
        if topology == "cpu":
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(devices)
        return Target(topology, topology, devices, None, memory)
    from jax.experimental import topologies

    for name, value in _WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    try:
        import libtpu  # noqa: F401  (the compiler; JAX finds it by itself)
    except ImportError as error:
        raise ConfigError(
            f"--topology={topology} needs the TPU's compiler, which is not installed: "
            "pip install libtpu, or pip install 'rcmstr-jax[aot]'"
        ) from error
    try:
        with _flags_for("tpu"):
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # of the library underneath, by kind of mistake
        raise ConfigError(
            f"--topology={topology} is no topology that libtpu knows: give cpu, gpu, or a TPU with "
            f"its grid of chips: v5e:2x4, v5p:2x2x2, v6e:2x4 ({' '.join(str(error).split())[:200]})"
        ) from error
    kind: Any = found.devices[0]
    chip = scaling.CHIPS.get(kind.device_kind)
    return Target(topology, "tpu", found.devices, chip, chip.memory if chip else None)


@contextlib.contextmanager
def _flags_for(platform: str) -> Iterator[None]:
    """Keeps XLA_FLAGS from libtpu, which ends the process at flags of another compiler.

    It reads them before it first compiles; its own are in LIBTPU_INIT_ARGS.
    """
    flags = os.environ.pop("XLA_FLAGS", None) if platform == "tpu" else None
    try:
        yield
    finally:
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags


def compile_step(plan: PretrainPlan, target: Target) -> CompiledStep:
    """Compiles the step of a plan, made for as many devices as the target has; runs nothing.

    Raises:
      DoesNotFit: the compiler says so.
    """
    count = len(target.devices)
    with compiling_for(target.platform):
        lowered = scaling.lower_step(plan, target.devices)
        products = scaling.step_flops(plan, plan.loop.batch_size // count)
    started = time.perf_counter()
    try:
        with _flags_for(target.platform):
            program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(" ".join(str(error).split())) from error
    seconds = time.perf_counter() - started
    memory, costs, text = (
        program.memory_analysis(),
        program.cost_analysis() or {},
        program.as_text(),
    )
    return CompiledStep(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        operations=max(products, costs.get("flops", 0.0)),
        accessed=costs.get("bytes accessed", 0.0),
        moving=operations_in(text),
        collectives=collectives_in(text, count, runs_of_computations(text)),
    )


def report(config: Mapping[str, Any], target: Target) -> Iterator[str]:
    """Lines and tables about the step of a config on a target, part by part; takes minutes.

    Args:
      config: of pretraining.
      target: see `find_target`.

    Raises:
      ConfigError: the config cannot work on as many devices.
    """
    hosts = len({device.process_index for device in target.devices})
    plan = pretrain_plan(config, devices=len(target.devices), hosts=hosts)
    rows = plan.loop.batch_size // len(target.devices)
    kind = target.chip.name if target.chip else target.devices[0].device_kind
    yield f"{target.name}: {len(target.devices)} x {kind}, {rows} images each"
    found = _within(plan, target)
    if isinstance(found, CompiledStep):
        yield from describe(found, target, plan.loop.batch_size)
        return
    yield f"does not fit: {found}"
    for larger in with_more_parts(plan, len(target.devices), hosts):
        parts, found = larger.loop.accumulation, _within(larger, target)
        if isinstance(found, CompiledStep):
            yield f"fits with --config.accumulation={parts}"
            yield from describe(found, target, plan.loop.batch_size, parts)
            return
        yield f"nor with --config.accumulation={parts}"
    yield "no accumulation makes it fit: lower --config.batch_size, or take more devices"


def _within(plan: PretrainPlan, target: Target) -> CompiledStep | str:
    """The compiled step, or why it does not fit."""
    try:
        step = compile_step(plan, target)
    except DoesNotFit as error:
        return str(error)[:400]
    if target.memory and step.held > target.memory:
        return f"{_giga(step.held)} are needed, a device has {_giga(target.memory)}"
    return step


def with_more_parts(plan: PretrainPlan, devices: int, hosts: int = 1) -> Iterator[PretrainPlan]:
    """The plan with the batch in more and more parts, as far as the parts can be divided."""
    for parts in range(plan.loop.accumulation + 1, plan.loop.batch_size // devices + 1):
        config = config_from_jsonable(config_to_jsonable(plan.config))
        config.accumulation = parts
        try:
            yield pretrain_plan(config, devices=devices, hosts=hosts)
        except ConfigError:  # parts of unequal size, or groups that they would cut
            continue


def describe(step: CompiledStep, target: Target, batch: int, parts: int = 1) -> Iterator[str]:
    """A step that fits: what it needs, what it takes at best, what moves most, and a summary."""
    yield f"compiled in {step.seconds:.0f} s; it fits"
    held = [["bytes of a device", "GB", "of its memory"]]
    for name in ("arguments", "results", "temporaries", "code", "held"):
        size = getattr(step, name)
        share = f"{100 * size / target.memory:.1f} %" if target.memory else ""
        held.append([name, f"{size / 1e9:.3f}", share])
    yield f"\n{markdown_table(held)}"
    yield (
        f"\n{step.operations / 1e12:.4g} TFLOP; {step.moved / 1e9:.4g} GB of main memory moved "
        f"({step.accessed / 1e9:.4g} GB by the compiler's count, on-chip memories included)"
    )
    if target.chip is not None:
        best = scaling.predict(
            step.operations, step.collectives, chips=len(target.devices), rows_factor=1,
            chip=target.chip, share=1.0,
        )  # fmt: skip
        traffic, exchange = step.moved / target.chip.memory_bandwidth, best.step - best.compute
        total = max(best.compute, traffic) + exchange
        times = {"products": best.compute, "memory": traffic, "exchanges": exchange, "step": total}
        said = ", ".join(f"{name} {1e3 * seconds:.4g} ms" for name, seconds in times.items())
        yield f"roofline of {target.chip.name}: {said}; {batch / total:,.0f} words per second"
        best_step = [f"{1e3 * total:.0f}", f"{batch / total:,.0f}"]
    else:
        best_step = ["", ""]
        yield f"roofline: the speeds of {target.devices[0].device_kind} are not known here"
    if step.collectives:
        yield f"\n{markdown_table(exchange_rows(step.collectives))}"
    rows = [["operation", "times", "MB in all", "share", "from"]]
    for o in step.moving[:LISTED]:
        share = f"{100 * o.moved / step.moved:.1f} %"
        rows.append([o.name, str(o.times), f"{o.moved / 1e6:.4g}", share, o.source[-70:]])
    yield f"\n{markdown_table(rows)}\n"
    sizes = (f"{size / 1e9:.2f}" for size in (step.held, step.temporaries, step.code))
    work = f"{step.operations / 1e12:.3g}", f"{step.moved / 1e9:.0f}"
    yield " | ".join([str(parts), f"{step.seconds:.0f}", *sizes, *work, *best_step])


def _giga(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
