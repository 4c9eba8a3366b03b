"""Pretraining from a config to a finished workdir; reads from top to bottom.

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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.pipeline import prefetch_to_device, train_batches
from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.compilation import announced, enable_compilation_cache
from rcmstr_jax.runtime.config_files import differences, flatten, write_config
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.interrupts import StopRequest
from rcmstr_jax.runtime.memory import return_freed_memory
from rcmstr_jax.runtime.parameters import parameter_table
from rcmstr_jax.runtime.profiling import Tracer
from rcmstr_jax.runtime.progress import Progress, run_log
from rcmstr_jax.runtime.provenance import DataPosition, source_fingerprint
from rcmstr_jax.runtime.skipped import SkippedSteps
from rcmstr_jax.runtime.watchdog import DATA, SAVING, STEP, Watchdog
from rcmstr_jax.runtime.weights import with_rectifier
from rcmstr_jax.runtime.writers import create_writer
from rcmstr_jax.training.build import build_model, image_size
from rcmstr_jax.training.config_check import check_config, source_specs
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.pretrain_step import fresh_state, make_pretrain_step
from rcmstr_jax.training.state import PretrainState

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      step: finished steps.
      finished: False if it was asked to stop; the same command continues it.
      digest: of the training state, as in `state_digest.txt`.
    """

    step: int
    finished: bool
    digest: str


def pretrain(
    config: ConfigDict,
    workdir: str | Path,
    *,
    profile_steps: tuple[int, int] | None = None,
    stall_timeout: float = 600.0,
) -> Outcome:
    """Pretrains RCMSTR, or continues where a workdir's newest checkpoint stands.

    Args:
      config: as `configs/pretrain/common.py` describes, locked.
      workdir: folder of the run; created.
      profile_steps: first and last step of a profiler trace, written to `WORKDIR/profile`.
      stall_timeout: seconds without progress until the log says which host is stuck; 0 for never.

    Raises:
      ConfigError: if the config, the data or the workdir cannot work; before any long work.
      CheckpointMismatch: if the workdir holds a run of another architecture or other data.
      CheckpointError: if no checkpoint can be written, or none of those there can be read.
      TrainingDiverged: if loss or gradient stay infinite or undefined.
    """
    workdir = Path(workdir).absolute()
    devices, hosts = jax.device_count(), jax.process_count()
    leads = jax.process_index() == 0
    check_config(config, devices=devices, hosts=hosts)
    if hosts > 1:
        _prepare(workdir)  # for signs of life: one host may open the data long before another

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        watchdog = stack.enter_context(
            Watchdog(
                workdir / "hosts",
                process=jax.process_index(),
                processes=hosts,
                stall_seconds=stall_timeout,
            )
        )
        source = _open(config)
        _prepare(workdir)
        stack.enter_context(run_log(workdir if leads else None))
        logger.info(
            "%s: %s on %d %s device(s), %d host(s)", workdir, source_fingerprint(source),
            devices, jax.devices()[0].platform, hosts,
        )  # fmt: skip
        cache = enable_compilation_cache(config.compilation_cache)

        # The state: fresh, or the newest checkpoint's.
        axis = parallel.AXIS if config.key_norm == "sync" else None
        model = build_model(config, axis_name=axis)
        optimizer, schedule = make_optimizer(
            config.optimizer, config.total_steps, config.batch_size
        )
        fresh = functools.partial(fresh_state, config, model, optimizer)

        position = DataPosition(source_fingerprint(source), config.seed, config.batch_size)
        checkpoints = stack.enter_context(
            Checkpoints(workdir, keep=config.keep_checkpoints, keep_period=config.keep_period)
        )
        stack.push(watchdog.note_failure)  # before the others are waited for
        restored = checkpoints.restore(jax.eval_shape(fresh), position)
        start = restored.step if restored else 0
        host_state = (
            restored.state if restored else with_rectifier(fresh(), config.model.rectifier_from)
        )
        if restored:
            logger.info("continuing after step %d", start)
            for change in differences(restored.config, config):
                logger.warning("config changed since the checkpoint: %s", change)
        if leads:
            write_config(config, workdir)
            _describe(host_state, workdir)
        state = parallel.replicate(host_state)
        del host_state, restored
        return_freed_memory()

        # The data, from the image after the last one that was used.
        mine = "faults.json" if leads else f"hosts/{jax.process_index()}-faults.json"
        faults = FaultLog(workdir / mine)
        records = train_batches(
            _cached(source, config, faults) if config.data.cache else source,
            batch_size=config.batch_size,
            image_size=image_size(config),
            seed=config.seed,
            start_step=start,
            host_index=jax.process_index(),
            host_count=hosts,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            faults=faults,
        )
        stack.callback(records.close)
        batches = prefetch_to_device(records, config.data.prefetch, parallel.shard_batch)

        # The steps.
        train_step = parallel.pmap_step(make_pretrain_step(config, model, optimizer, schedule))
        pictures = None
        if leads and config.picture_every >= 0:
            from rcmstr_jax.training.pictures import Pictures  # brings matplotlib, which is slow

            pictures = Pictures(config, build_model(config), workdir)
        writer = create_writer(workdir, start, writes=leads)
        stack.callback(writer.close)
        if not start:
            writer.write_hparams(dict(flatten(config)))
        progress = Progress(
            total_steps=config.total_steps,
            start_step=start,
            batch_size=config.batch_size,
            devices=devices,
            shown=leads,
        )
        stack.callback(progress.close)
        tracer = stack.enter_context(Tracer(profile_steps if leads else None, workdir / "profile"))
        skipped = SkippedSteps(config.max_skipped)
        step, stopped, batch = start, False, None
        while step < config.total_steps and not stopped:
            watchdog.note(step, DATA)
            with progress.waiting():
                batch = next(batches)
            watchdog.note(step, STEP)
            tracer.before(step + 1)
            with announced(cache) if step == start else contextlib.nullcontext():
                if step == start:
                    train_step = parallel.compile_ahead(train_step, state, batch)
                    return_freed_memory()  # the compiler's, before the step takes its own
                state, metrics = train_step(state, batch)
            step += 1
            tracer.after(step, metrics)
            skipped.add(step, metrics)
            progress.tick(metrics)
            if step == start + 1:
                progress.restart_clock()
            if step % config.log_every == 0 or step == config.total_steps:
                numbers = _to_host(metrics)  # the only place that waits for the devices
                speed, line = progress.report(numbers)
                writer.write_scalars(step, {**numbers, **speed})
                logger.info(line)
                faults.flush()
                skipped.check(numbers)
            watchdog.note(step, SAVING)
            if pictures and config.picture_every > 0 and step % config.picture_every == 0:
                pictures.save(step, state, batch)
                progress.restart_clock()
            if step % config.checkpoint_every == 0:
                checkpoints.save(step, parallel.unreplicate(state), config, position)
            stopped = stop.agreed()

        # The end, or a stop on request.
        finished = step >= config.total_steps
        if stopped and not finished:
            why = stop.signal or "a process was asked to stop"
            logger.info("%s: saving after step %d of %d", why, step, config.total_steps)
        watchdog.note(step, SAVING)
        digest = checkpoints.save(step, parallel.unreplicate(state), config, position)
        checkpoints.wait()
        writer.flush()
        faults.write()
        if pictures and finished and batch is not None:
            pictures.save(step, state, batch)
        if leads:
            (workdir / "state_digest.txt").write_text(f"{digest}  step {step}\n", encoding="utf-8")
        ending = "finished" if finished else "stopped; the same command continues"
        logger.info("%s after step %d, state digest %s", ending, step, digest)
        return Outcome(step, finished, digest)


def _open(config: ConfigDict) -> RecordSource:
    """Opens the data; what is wrong with them is a mistake in the config."""
    try:
        return open_source(
            source_specs(config),
            weights=tuple(config.data.weights) or None,
            seed=config.seed,
            labels=False,
            synthetic_options=dict(**config.data.synthetic),
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"config.data.source={source_specs(config)}: {error}") from error


def _cached(source: RecordSource, config: ConfigDict, faults: FaultLog) -> DecodedCache:
    try:
        return DecodedCache.build(
            source, image_size(config), workers=config.data.workers, faults=faults
        )
    except ValueError as error:
        raise ConfigError(f"config.data.cache=True: {error}") from error


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


def _to_host(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of one device (they are equal on all) as numbers."""
    return {name: float(value) for name, value in parallel.unreplicate(dict(metrics)).items()}


def _describe(state: PretrainState, workdir: Path) -> None:
    """Writes the table of parameters, and logs their number per part."""
    params = {**state.params, **state.frozen_params}
    (workdir / "parameters.txt").write_text(parameter_table(params) + "\n", encoding="utf-8")
    sizes = {k: sum(int(np.size(x)) for x in jax.tree.leaves(v)) for k, v in params.items()}
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    queues = ", ".join(f"{k} {q.keys.shape[0]}" for k, q in state.queues.items())
    logger.info("%s parameters: %s; keys queued: %s", f"{sum(sizes.values()):,}", parts, queues)
