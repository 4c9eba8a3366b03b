"""The loop: from a job to a finished workdir, whatever is trained; reads from top to bottom.

A workdir holds: `config.json` (resolved), `log.txt`, `parameters.txt`, `metrics.jsonl` and
`speed.jsonl`, TensorBoard events, `checkpoints/STEP`, `pictures/*.png`, `faults.json` (records that
could not be used) and, at the end, `state_digest.txt`. With several hosts all of them see the same
workdir: process 0 writes, checkpoints too (the state is the same on all, and all wait until it is
whole); the others say in `hosts/` how far they are, and which records of theirs could not be used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.pipeline import prefetch_to_device
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.compilation import QUICKLY, enable_compilation_cache
from rcmstr_jax.runtime.config_files import differences, flatten, write_config
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import held, refuse_remote, write_text
from rcmstr_jax.runtime.interrupts import StopRequest
from rcmstr_jax.runtime.memory import return_freed_memory
from rcmstr_jax.runtime.parameters import parameter_table
from rcmstr_jax.runtime.profiling import Tracer
from rcmstr_jax.runtime.progress import Forecast, Progress, announced, run_log
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.runtime.skipped import SkippedSteps
from rcmstr_jax.runtime.watchdog import DATA, SAVING, STEP, Watchdog
from rcmstr_jax.runtime.writers import MetricWriter, find_wandb
from rcmstr_jax.training.plan import LoopPlan
from rcmstr_jax.training.stored import filled

logger = logging.getLogger(__name__)
State = Any  # a pytree with `step`, `skipped` and `skipped_in_row`
Batch = dict[str, Any]
Gauge = tuple[int, Callable[[State, Batch], dict[str, float]]]


class Feed(Protocol):
    """Batches of a job."""

    @property
    def constants(self) -> Mapping[str, Any]:
        """Arrays that every step reads, put on every device once; empty without."""

    def batches(self, start: int) -> contextlib.AbstractContextManager[Iterator[Batch]]:
        """This host's rows from the step after `start`, one batch for each call of the step.

        Arrays have a row per image; with `steps_per_call > 1` an axis of steps before it.
        """


class Watch(Protocol):
    """What looks at the state every so many steps, and may end the training."""

    every: int

    def __call__(self, step: int, state: State) -> tuple[State, dict[str, float]]:
        """The state to go on with, and numbers for the log; of a state on the devices."""

    def ended(self, state: State) -> bool:
        """Whether nothing better is to be expected."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What the loop trains.

    Attributes:
      plan: lengths and habits.
      config: what is trained, JSON-ready; lies in config.json and beside every checkpoint.
      position: of the data.
      fresh: the state that training begins with; can be traced for its shapes.
      step: `(state, batch, constants) -> (state, metrics)`, for one device of the axis.
      feed: batches.
      faults: records that could not be used.
      drawn: whether `fresh` draws its arrays, in one compiled call; else it has them.
      prepare: what is done to a fresh state on the host, None for nothing.
      watch: see `Watch`; None trains to the last step.
      pictures: `(step, state, batch) -> None`, drawn on process 0 alone.
      gauges: numbers for the log beside those of the step: every so many steps those of
        `(state, batch) -> {name: number}`, on process 0 alone.
      may_differ: whether a continued run may have another config (it is told); else that is an
        error.
    """

    plan: LoopPlan
    config: Mapping[str, Any]
    position: DataPosition
    fresh: Callable[[], State]
    step: Callable[..., tuple[State, dict[str, Any]]]
    feed: Feed
    faults: FaultLog
    drawn: bool = True
    prepare: Callable[[State], State] | None = None
    watch: Watch | None = None
    pictures: Callable[[int, State, Batch], None] | None = None
    gauges: tuple[Gauge, ...] = ()
    may_differ: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      step: finished steps.
      finished: False if it was asked to stop; the same command continues it.
      digest: of the training state, as in `state_digest.txt`.
      state: the last one, arrays on the host.
    """

    step: int
    finished: bool
    digest: str
    state: State = dataclasses.field(repr=False, compare=False)  # the digest stands for it


@dataclasses.dataclass(frozen=True)
class Session:
    """A process at work on a workdir: who it is, who watches it, and whether it shall stop."""

    workdir: Path
    stop: StopRequest
    watchdog: Watchdog
    profile_steps: tuple[int, int] | None = None
    wandb: str | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return jax.process_index() == 0

    def faults(self) -> FaultLog:
        """Where this process reports records that cannot be used."""
        mine = "faults.json" if self.leads else f"hosts/{jax.process_index()}-faults.json"
        return FaultLog(self.workdir / mine)


@contextlib.contextmanager
def open_session(
    workdir: str | Path,
    *,
    compilation_cache: str = "auto",
    stall_timeout: float = 600.0,
    profile_steps: tuple[int, int] | None = None,
    wandb: str | None = None,
) -> Iterator[Session]:
    """Makes the workdir, and watches and logs what happens within.

    Args:
      workdir: folder of the run; created.
      compilation_cache: where compiled programs are kept, see `configs/pretrain/common.py`.
      stall_timeout: seconds without progress until the log says which host is stuck; 0 for never.
      profile_steps: first and last step of a profiler trace, written to `WORKDIR/profile`.
      wandb: project of Weights & Biases that takes the metrics too; None without.

    Raises:
      ConfigError: if the workdir cannot be written, or another process trains there; or wandb is
        not installed.
    """
    refuse_remote("--workdir", workdir)
    if wandb:
        find_wandb(wandb)
    workdir = Path(workdir).absolute()
    _prepare(workdir)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(held(workdir, f"--workdir={workdir}"))
        stop = stack.enter_context(StopRequest())
        watchdog = stack.enter_context(
            Watchdog(
                workdir / "hosts",
                process=jax.process_index(),
                processes=jax.process_count(),
                stall_seconds=stall_timeout,
            )
        )
        session = Session(workdir, stop, watchdog, profile_steps, wandb)
        stack.enter_context(run_log(workdir if session.leads else None))
        enable_compilation_cache(compilation_cache)
        yield session


def train(session: Session, job: Job, workdir: Path | None = None) -> Outcome:
    """Trains a job in its workdir, by default the session's, or goes on from the newest checkpoint.

    Raises:
      CheckpointMismatch: if the workdir holds a run of another architecture or other data.
      CheckpointError: if no checkpoint can be written, or none of those there can be read.
      ConfigError: if the workdir holds another run, and that may not be.
      TrainingDiverged: if loss or gradient stay infinite or undefined.
    """
    plan, watchdog, leads = job.plan, session.watchdog, session.leads
    workdir = workdir or session.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # The state: fresh, or the newest checkpoint's.
        checkpoints = stack.enter_context(
            Checkpoints(workdir, keep=plan.keep_checkpoints, keep_period=plan.keep_period)
        )
        stack.push(watchdog.note_failure)  # before the others are waited for
        state, start = _initial_state(job, checkpoints, workdir, leads)
        constants = parallel.replicate(dict(job.feed.constants))
        return_freed_memory()

        # The data, from the image after the last one that was used.
        stacked = plan.steps_per_call > 1
        records = stack.enter_context(job.feed.batches(start))
        place = functools.partial(parallel.shard_batch, stacked=stacked)
        batches = prefetch_to_device(records, plan.prefetch, place)

        # The steps.
        writer = MetricWriter(workdir, start, writes=leads, wandb=session.wandb)
        stack.callback(writer.close)
        if not start:
            writer.write_hparams(dict(flatten(job.config)))
        progress = Progress(
            total_steps=plan.total_steps,
            start_step=start,
            batch_size=plan.batch_size,
            devices=jax.device_count(),
            shown=leads,
        )
        stack.callback(progress.close)
        forecast = Forecast(plan.total_steps, plan.batch_size)
        traced = session.profile_steps if leads else None
        tracer = stack.enter_context(Tracer(traced, workdir / "profile"))
        skipped = SkippedSteps(plan.max_skipped, plan.sections, plan.steps_per_call)
        program: Any = parallel.pmap_step(repeated(job.step, plan) if stacked else job.step)
        step, stopped, batch = start, False, None
        ended = job.watch is not None and job.watch.ended(state)
        while step < plan.total_steps and not (stopped or ended):
            watchdog.note(step, DATA)
            with progress.waiting():
                batch = next(batches)
            watchdog.note(step, STEP)
            tracer.before(step + 1)
            before, step = step, min(step + plan.steps_per_call, plan.total_steps)
            if before == start:
                with announced("compiling the training step", always=True):
                    program = parallel.compile_ahead(program, state, batch, constants)
                    return_freed_memory()  # the compiler's, before the step takes its own
                    state, metrics = program(state, batch, constants)
            else:
                state, metrics = program(state, batch, constants)
            tracer.after(step, metrics)
            skipped.add(step, metrics)
            if prediction := forecast.tick(step, progress.tick(step, metrics)):
                logger.info(prediction)
            if before == start:
                progress.restart_clock()
            numbers: dict[str, float] = {}
            if crosses(before, step, plan.log_every) or step == plan.total_steps:
                # The only place that waits for the devices; metrics are equal on all.
                host = parallel.unreplicate(dict(metrics))
                numbers = {name: float(value) for name, value in host.items()}
            watchdog.note(step, SAVING)
            watched: dict[str, float] = {}
            if job.watch and (crosses(before, step, job.watch.every) or step == plan.total_steps):
                state, watched = job.watch(step, state)
                ended = job.watch.ended(state)
            for every, gauge in job.gauges if leads else ():
                if crosses(before, step, every):
                    watched = {**watched, **gauge(state, batch)}
            if numbers:
                speed, line = progress.report(numbers)
                writer.write_scalars(step, {**numbers, **watched, **speed})
                logger.info(line)
                job.faults.flush()
                skipped.check(numbers)
            elif watched:
                writer.write_scalars(step, watched)
            if watched:
                progress.restart_clock()
            if job.pictures and leads and crosses(before, step, plan.picture_every):
                job.pictures(step, state, batch)
                progress.restart_clock()
            if crosses(before, step, plan.checkpoint_every):
                begun = time.perf_counter()
                copy = parallel.unreplicate(state)
                checkpoints.save(step, copy, job.config, job.position, owned=True)
                waited = time.perf_counter() - begun
                logger.info("checkpoint of step %d: the next step waited %.2f s", step, waited)
            stopped = session.stop.agreed()

        # The end, or a stop on request.
        finished = step >= plan.total_steps or ended
        if stopped and not finished:
            why = session.stop.signal or "a process was asked to stop"
            logger.info("%s: saving after step %d of %d", why, step, plan.total_steps)
        watchdog.note(step, SAVING)
        last = parallel.unreplicate(state)
        saved = checkpoints.save(step, last, job.config, job.position, owned=True)
        checkpoints.wait()
        digest = saved.result()
        job.faults.write()
        if job.pictures and leads and finished and batch is not None and plan.picture_every >= 0:
            with announced("drawing pictures"):
                job.pictures(step, state, batch)
        if leads:
            write_text(workdir / "state_digest.txt", f"{digest}  step {step}\n")
        ending = "finished" if finished else "stopped; the same command continues"
        logger.info("%s after step %d, state digest %s", ending, step, digest)
        return Outcome(step, finished, digest, last)


def crosses(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; never for 0 or less."""
    return every > 0 and after // every > before // every


def repeated(
    step: Callable[..., tuple[State, dict[str, Any]]], plan: LoopPlan
) -> Callable[..., tuple[State, dict[str, Any]]]:
    """Several steps in one call: the dispatch of a small step costs as much as the step.

    Args:
      step: of one device.
      plan: `steps_per_call` batches are stacked along their first axis; steps beyond
        `total_steps`, which only fill the last call up, change nothing.

    Returns:
      A step whose metrics are means over the steps that were taken; of the counters of skipped
      steps the largest in a row, and the last.
    """

    def calls(state: State, batches: Batch, constants: Any) -> tuple[State, dict[str, Any]]:
        def one(state: State, batch: Batch) -> tuple[State, Any]:
            active = state.step < plan.total_steps
            moved, metrics = step(state, batch, constants)
            kept = jax.tree.map(lambda new, old: jax.numpy.where(active, new, old), moved, state)
            return kept, (metrics, active)

        state, (metrics, active) = jax.lax.scan(one, state, batches)
        means = {
            name: jax.numpy.mean(value.astype(jax.numpy.float32), where=active)
            for name, value in metrics.items()
        }
        in_row = jax.numpy.max(metrics["skipped_in_row"], where=active, initial=0)
        return state, {**means, "skipped": state.skipped, "skipped_in_row": in_row}

    return calls


def _initial_state(
    job: Job, checkpoints: Checkpoints, workdir: Path, leads: bool
) -> tuple[State, int]:
    """The state on every device, and its step."""
    restored = checkpoints.restore(jax.eval_shape(job.fresh), job.position)
    if restored:
        logger.info("continuing after step %d", restored.step)
        changed = differences(filled(restored.config), filled(job.config))
        if changed and not job.may_differ:
            raise ConfigError(
                f"--workdir={workdir} holds another run ({'; '.join(changed[:8])}): use another "
                "--workdir, or remove that one"
            )
        for change in changed:
            logger.warning("config changed since the checkpoint: %s", change)
        state = restored.state
    else:
        with announced("initialising"):
            state = (jax.jit(job.fresh, compiler_options=QUICKLY) if job.drawn else job.fresh)()
            state = job.prepare(state) if job.prepare else state
    if leads:
        write_config(job.config, workdir)
        write_text(workdir / "parameters.txt", parameter_table(state.params) + "\n")
    start = restored.step if restored else 0
    return parallel.replicate(state), start


def _prepare(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{jax.process_index()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} cannot be written ({error}): give a folder that can"
        ) from error
