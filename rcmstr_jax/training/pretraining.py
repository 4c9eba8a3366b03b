"""Pretraining: the job that a config describes (METHOD.md 1 to 7)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.pipeline import train_batches
from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.digest import misfits
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition, source_fingerprint
from rcmstr_jax.runtime.weights import read_weights
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.gradients import gradient_gauge
from rcmstr_jax.training.loop import Batch, Gauge, Job, Outcome, Session, open_session, train
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from rcmstr_jax.training.pretrain_step import make_pretrain_step
from rcmstr_jax.training.shortcut import shortcut_gauge
from rcmstr_jax.training.state import PretrainState, fresh_state
from rcmstr_jax.training.warm_start import Reader, warm_start, weights_of

logger = logging.getLogger(__name__)


def pretrain(
    config: ConfigDict,
    workdir: str | Path,
    *,
    read: Reader = read_weights,
    **options: Any,
) -> Outcome:
    """Pretrains RCMSTR, or continues where a workdir's newest checkpoint stands.

    Configs are as in `configs/pretrain/common.py`; `read` finds the weights of `config.init_from`
    (that of `interop/start.py` reads files too); other options are those of `open_session`.

    Raises:
      ConfigError: if the config, the data or the workdir cannot work; before any long work.
      CheckpointMismatch: if the workdir holds a run of another architecture or other data.
      CheckpointError: if no checkpoint can be written, or none of those there can be read.
      TrainingDiverged: if loss or gradient stay infinite or undefined.
    """
    plan = pretrain_plan(config, devices=jax.device_count(), hosts=jax.process_count())
    source = _open(plan)  # before the workdir is made
    with open_session(
        workdir,
        compilation_cache=plan.loop.compilation_cache,
        **options,
    ) as session:
        return train(session, pretraining_job(plan, source, session, read))


def pretraining_job(
    plan: PretrainPlan, source: RecordSource, session: Session, read: Reader = read_weights
) -> Job:
    """Puts the job together: images of `source`, as the plan says."""
    fingerprint = source_fingerprint(source)
    logger.info(
        "%s: %s on %d %s device(s), %d host(s)", session.workdir, fingerprint,
        jax.device_count(), jax.devices()[0].platform, jax.process_count(),
    )  # fmt: skip
    logger.info("products: %s", plan.precision.describe(plan.model.dtype))
    model = build_model(plan, parallel.AXIS)
    optimizer, schedule = make_optimizer(plan.optimizer)
    step = make_pretrain_step(plan, model, optimizer, schedule)
    faults = session.faults()
    pictures = None
    if session.leads and plan.loop.picture_every >= 0:
        from rcmstr_jax.training.pictures import picture_saver  # brings matplotlib, which is slow

        pictures = picture_saver(plan, build_model(plan), session.workdir)
    every = plan.log_gradients_every
    gauges: list[Gauge] = []
    if every:
        gauges.append((every, gradient_gauge(plan, build_model(plan))))
    local = plan.loop.batch_size // jax.device_count()
    if plan.views is not None and plan.loop.picture_every > 0 and local >= 4:
        gauges.append((plan.loop.picture_every, shortcut_gauge(plan)))
    keys = ", ".join(f"{name} {size:,}" for name, size in plan.queue_sizes.items())
    logger.info("keys queued: %s", keys)
    return Job(
        plan=plan.loop,
        config=plan.config,
        position=DataPosition(fingerprint, plan.seed, plan.loop.batch_size),
        fresh=functools.partial(fresh_state, plan, model, optimizer),
        prepare=lambda state: with_rectifier(
            warm_start(state, plan.init_from, plan.init_may_differ, read),
            plan.model.rectifier_from,
        ),
        step=lambda state, batch, constants: step(state, batch),
        feed=ImageFeed(plan, source, faults),
        faults=faults,
        pictures=pictures,
        gauges=tuple(gauges),
    )


@dataclasses.dataclass(frozen=True)
class ImageFeed:
    """Unlabelled images, in the seeded order of the run."""

    plan: PretrainPlan
    source: RecordSource
    faults: FaultLog
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def batches(self, start: int) -> Iterator[Iterator[Batch]]:
        """Batches from the step after `start`: `image` uint8, `index` int64."""
        plan, size = self.plan, self.plan.model.image_size
        source: RecordSource | DecodedCache = self.source
        if plan.data.cache:
            try:
                source = DecodedCache.build(
                    self.source, size, workers=plan.data.workers, faults=self.faults
                )
            except ValueError as error:
                raise ConfigError(f"config.data.cache=True: {error}") from error
        with train_batches(
            source,
            batch_size=plan.loop.batch_size,
            image_size=size,
            seed=plan.seed,
            start_step=start,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
            workers=plan.data.workers,
            prefetch=plan.loop.prefetch,
            faults=self.faults,
        ) as batches:
            yield batches


def _open(plan: PretrainPlan) -> RecordSource:
    """Opens the data; what is wrong with them is a mistake in the config."""
    try:
        return open_source(
            plan.data.source,
            weights=plan.data.weights or None,
            seed=plan.seed,
            labels=False,
            synthetic_options=dict(plan.data.synthetic),
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"config.data.source={plan.data.source}: {error}") from error


def with_rectifier(state: PretrainState, workdir: str) -> PretrainState:
    """The state with the frozen rectifier of another workdir, for example a converted one.

    Args:
      state: a fresh state whose network has a rectifier.
      workdir: as `launch/convert_weights.py` writes it; empty leaves the state as it is.

    Raises:
      ConfigError: if there is no checkpoint, or its rectifier has other parts or sizes.
    """
    if not workdir:
        return state
    field = f"config.model.rectifier_from={workdir}"
    weights = weights_of(field, workdir)
    found = {
        "params": weights.params.get("rectifier", {}),
        "statistics": weights.batch_stats.get("rectifier", {}),
    }
    own = {
        "params": state.frozen_params["rectifier"],
        "statistics": state.batch_stats["rectifier"],
    }
    if wrong := misfits(found, own):
        raise ConfigError(
            f"{field} holds no rectifier that fits: {'; '.join(wrong[:6])}. Convert one with "
            "launch/convert_weights.py --kind=tps"
        )
    new = jax.tree.map(lambda a, b: np.asarray(a, b.dtype), found, own)
    statistics = {"rectifier": new["statistics"]}
    return dataclasses.replace(
        state,
        frozen_params={"rectifier": new["params"]},
        batch_stats={**state.batch_stats, **statistics},
        momentum_batch_stats={**state.momentum_batch_stats, **statistics},
    )
