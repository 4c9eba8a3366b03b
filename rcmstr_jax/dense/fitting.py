"""From an encoder and words with an answer for every pixel to a saved network."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.data.dense.sources import open_dense
from rcmstr_jax.data.dense.words import DenseArrays, DenseSource, read_words
from rcmstr_jax.dense.heads import DenseHead, make_head
from rcmstr_jax.dense.network import DENSE, DenseNetwork, load_network, map_shapes
from rcmstr_jax.recognition.encoders import Encoder, planned_encoder, split_pretrained
from rcmstr_jax.recognition.features import calibrate_statistics
from rcmstr_jax.recognition.feeds import MemoryFeed
from rcmstr_jax.recognition.fitting import (
    CALIBRATION_WORDS,
    Clock,
    describe,
    finished,
    labelled_job,
    tuned,
)
from rcmstr_jax.recognition.task import identity, refuse_another_run
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.checkpoint import CHECKPOINTS
from rcmstr_jax.runtime.provenance import DataPosition, source_fingerprint
from rcmstr_jax.training.dense_plan import DensePlan
from rcmstr_jax.training.loop import Job, Session, train

logger = logging.getLogger(__name__)
Tree = Any


@dataclasses.dataclass(frozen=True)
class DenseTask:
    """A network that is to be trained, or that has been.

    Attributes:
      plan: of the evaluation.
      session: the process and its workdir.
      encoder: to begin with.
      head: what is trained on it.
      is_random: whether the encoder is untrained.
      run: what a continued run must agree in.
      source: of the labelled images.
      finished: the workdir's network, if this run has finished one there.
    """

    plan: DensePlan
    session: Session
    encoder: Encoder
    head: DenseHead
    is_random: bool
    run: dict[str, Any]
    source: DenseSource
    finished: DenseNetwork | None = None


def prepare(plan: DensePlan, session: Session, pretrained: str) -> DenseTask:
    """Finds encoder and words to train on, or the network that was already trained on them.

    Raises:
      ConfigError: the workdir holds another run, or `pretrained` no encoder.
      ValueError: no such words, or fewer than are asked for.
    """
    spec = plan.train.source[0]
    check_apart(spec, plan.benchmarks)
    encoder = planned_encoder(pretrained, plan)
    task = DenseTask(
        plan,
        session,
        encoder,
        make_head(plan.task, encoder, **vars(plan.head)),
        split_pretrained(pretrained)[0],
        identity(plan, encoder),
        open_words(plan, spec, encoder),
    )
    if (session.workdir / DENSE).is_dir():
        network = load_network(session.workdir, batch_size=plan.eval_batch_size)
        refuse_another_run(session, "network", network.description["run"], task.run)
        return dataclasses.replace(task, finished=network)
    chosen_rows(plan, len(task.source))  # refuses what cannot be had
    return task


def obtain_network(task: DenseTask, clock: Clock) -> DenseNetwork:
    """Trains and saves a network, unless that has been done.

    Raises:
      Stopped: by Ctrl-C or SIGTERM.
    """
    if task.finished is not None:
        return task.finished
    plan, session, encoder, head = task.plan, task.session, task.encoder, task.head
    rows = chosen_rows(plan, len(task.source))
    words = read_words(task.source, rows, session.faults())
    logger.info("%d labelled images of %s", len(words.images), task.source.name)
    clock.mark("load")
    if plan.frozen and task.is_random and plan.calibrate_random_statistics:
        shown = np.asarray(head.shown(jnp.asarray(words.images[:CALIBRATION_WORDS])))
        encoder = calibrate_statistics(encoder, shown, plan)
    job = dense_job(dataclasses.replace(task, encoder=encoder), words)
    outcome = finished(train(session, job), str(plan.loop.total_steps))
    clock.mark("train")
    weights = outcome.state.weights()
    if not plan.frozen:
        encoder = tuned(encoder, weights)
    trained = {
        "source": task.source.name,
        "labels_asked": plan.train.labels,
        "available": len(task.source),
        "trained_on": len(words.images),
        "steps": outcome.step,
        "batch_size": plan.loop.batch_size,
    }
    description = describe(task, encoder, outcome.step, trained)
    network = DenseNetwork(
        plan.task,
        encoder,
        head,
        weights["params"]["decoder"],
        description,
        plan.eval_batch_size,
    )
    network.save(session.workdir, job.position)
    if session.leads:  # the network holds what they were for
        shutil.rmtree(session.workdir / CHECKPOINTS, ignore_errors=True)
    return network


def dense_job(task: DenseTask, words: DenseArrays) -> Job:
    """The job of the loop: a head, and the encoder beside it where that is trained too.

    Images are held in memory, and with them the maps of a frozen encoder where they fit into
    `train.memory_gib`; else it works in every step.
    """
    plan, session, encoder, head = task.plan, task.session, task.encoder, task.head
    held = {"params": encoder.params, "batch_stats": encoder.batch_stats}

    def encode(params: Tree, stats: Tree, images: Any, constants: Any) -> Any:
        shown = head.shown(images)
        if not plan.frozen:
            return encoder.maps(params, stats, shown, train=True)
        own = constants["encoder"]
        return encoder.maps(own["params"], own["batch_stats"], shown)[0], stats

    def init(key: Array) -> Tree:
        maps = [jnp.zeros(found.shape) for found in map_shapes(encoder)]
        return jax.jit(head.init)(key, maps)

    images = words.images
    kept = plan.frozen and _gib(encoder, len(images)) <= plan.train.memory_gib
    inputs = extract_maps(encoder, head, images, plan.eval_batch_size) if kept else images
    feed = MemoryFeed(
        {"inputs": inputs, "image": images, "target": words.targets},
        plan.loop,
        plan.seed,
        {"encoder": held} if plan.frozen and not kept else {},
    )
    place = f"{len(images)} of {source_fingerprint(task.source)}"
    return labelled_job(
        plan,
        plan.loop,
        feed,
        loss=head.loss,
        init=init,
        encoder=None if plan.frozen else encoder,
        encode=None if kept else encode,
        run=task.run,
        position=DataPosition(place, plan.seed, plan.loop.batch_size),
        faults=session.faults(),
    )


def extract_maps(
    encoder: Encoder, head: DenseHead, images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, ...]:
    """Maps of all images by a frozen encoder, on the host, a row per image."""

    def infer(weights: Tree, rows: Any) -> list[Any]:
        return encoder.maps(weights[0], weights[1], head.shown(rows))[0]

    rows = parallel.map_rows(infer)((encoder.params, encoder.batch_stats))
    found = [
        [x[:count].astype(np.float32) for x in rows(batch)]
        for batch, count in parallel.whole_batches(images, min(batch_size, len(images)))
    ]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _gib(encoder: Encoder, number: int) -> float:
    """What the maps take, with their copies on the host's own devices."""
    copies = 1 + jax.local_device_count() if jax.default_backend() == "cpu" else 1
    each = sum(4 * int(np.prod(found.shape[1:])) for found in map_shapes(encoder))
    return copies * number * each / 2**30


def open_words(plan: DensePlan, spec: str, encoder: Encoder) -> DenseSource:
    """The words of a spec, of the encoder's width.

    Raises:
      ValueError: they cannot be opened.
    """
    return open_dense(plan.task, spec, image_width=encoder.image_size[1])


def chosen_rows(plan: DensePlan, available: int) -> np.ndarray:
    """Places of the labelled images: the beginning of a seeded order, so that subsets are nested.

    Raises:
      ValueError: more are asked for than there are.
    """
    labels, seed = plan.train.labels, plan.train.subset_seed
    if labels > available:
        raise ValueError(
            f"train.labels={int(labels)}, but {plan.train.source[0]!r} holds {available} words:"
            " ask for fewer, or train.labels=1.0 for all"
        )
    number = int(labels) if labels > 1 else max(1, round(labels * available))
    order = np.random.default_rng(plan.seed if seed is None else seed).permutation(available)
    return order[:number]


def check_apart(trained: str, benchmarks: Sequence[str]) -> None:
    """Refuses to train on what is scored.

    Raises:
      ValueError: the same rendered words, or folders of which one holds the other.
    """
    for spec in benchmarks:
        kind, parts = _contents(trained)
        other, scored = _contents(spec)
        if kind == other == "rendered":
            same = parts == scored
        else:
            same = "rendered" not in (kind, other) and any(
                _overlap(one, two) for one in parts for two in scored
            )
        if same:
            raise ValueError(
                f"train.source={trained!r} overlaps with {spec!r} of benchmarks: what is scored"
                " must not be trained on; give other words"
            )


def _contents(spec: str) -> tuple[str, list[tuple[str, str]]]:
    """Kind of a spec, and (seed or folder, part or split) of what it names."""
    kind, _, rest = spec.partition(":")
    fields = rest.split(":")
    if kind == "rendered":
        return kind, [(fields[0], fields[3] if len(fields) > 3 else "train")]
    split = fields[1] if kind == "textseg" and len(fields) > 1 else ""
    return kind, [(str(Path(place).resolve()), split) for place in fields[0].split(",")]


def _overlap(one: tuple[str, str], two: tuple[str, str]) -> bool:
    """Whether one folder holds the other, and they are not different splits of one."""
    if one[0] == two[0] and one[1] and two[1]:
        return one[1] == two[1]
    return Path(one[0]).is_relative_to(two[0]) or Path(two[0]).is_relative_to(one[0])
