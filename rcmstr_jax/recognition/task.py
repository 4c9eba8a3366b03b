"""What a recogniser is trained on: encoder, decoder, words, and the run that a workdir holds."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping
from typing import Any

from rcmstr_jax.data.sources import open_source
from rcmstr_jax.recognition import words
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import RECOGNIZER
from rcmstr_jax.recognition.start import starting_point
from rcmstr_jax.runtime.config_files import differences
from rcmstr_jax.runtime.digest import named_arrays, state_digest
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.loop import Session
from rcmstr_jax.training.network_checks import check_drop_path
from rcmstr_jax.training.plan import EvaluationPlan, LabelledPlan
from rcmstr_jax.training.stored import filled

logger = logging.getLogger(__name__)
# Fields that change nothing of what is learnt.
BESIDE_TRAINING = (
    *("benchmarks", "policy", "compilation_cache", "workers", "seeds", "label_shares"),
    *("random_beside", "train.log_every", "train.checkpoint_every", "decoder.beams", "recognizer"),
    "decoder.fresh",  # said by `continued`
)


def identity(plan: LabelledPlan, encoder: Encoder, continued: Any = None) -> dict[str, Any]:
    """What two runs must have in common to end in the same network, JSON-ready.

    Args:
      plan: of both.
      encoder: that they start from.
      continued: parameters of the decoder that they start from, None for a fresh one.
    """
    fields = {k: dict(v) if isinstance(v, dict) else v for k, v in plan.config.items()}
    for name in BESIDE_TRAINING:
        *sections, field = name.split(".")
        holder = fields
        for section in sections:
            holder = holder.get(section, {})
        holder.pop(field, None)
    arrays = {"params": encoder.params, "batch_stats": encoder.batch_stats}
    digest = state_digest(named_arrays(arrays))
    found = {**fields, "model": encoder.origin["model"], "encoder": digest}
    if continued is not None:
        found["continued"] = state_digest(named_arrays(continued))
    return found


def refuse_another_run(
    session: Session, what: str, stored: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    """Refuses a finished network that was trained otherwise than `run` says.

    Raises:
      ConfigError: naming what differs.
    """
    changed = differences(filled(stored), filled(run))
    if changed:
        raise ConfigError(
            f"--workdir={session.workdir} holds a {what} of another run"
            f" ({'; '.join(changed[:8])}): use another --workdir, or remove that one"
        )
    logger.info("the %s of %s is finished: it is scored again", what, session.workdir)


@dataclasses.dataclass(frozen=True)
class Task:
    """A recogniser that is to be trained, or that has been.

    Attributes:
      plan: of the evaluation.
      session: the process and its workdir.
      encoder: to begin with.
      head: decoder and charset.
      is_random: whether the encoder is untrained.
      run: what a continued run must agree in, see `identity`.
      finished: the workdir's recogniser, if this run has finished one there; the rest is then None.
      chosen: words to train on.
      held_out: words for validation, None without.
      decoder_params: of the decoder that is continued, None for a fresh one.
    """

    plan: EvaluationPlan
    session: Session
    encoder: Encoder
    head: DecoderHead
    is_random: bool
    run: dict[str, Any]
    finished: Recognizer | None = None
    chosen: words.TrainingWords | None = None
    held_out: words.TrainingWords | None = None
    decoder_params: Any = None


def in_passes(plan: EvaluationPlan, words: int) -> EvaluationPlan:
    """The plan with the steps of `train.passes` over so many words; as it is without."""
    passes, batch = plan.train.passes, plan.loop.batch_size
    if not passes:
        return plan
    steps = math.ceil(passes * words / batch)
    logger.info("%g passes over %d words: %d steps of %d", passes, words, steps, batch)
    return dataclasses.replace(plan, loop=dataclasses.replace(plan.loop, total_steps=steps))


def prepare(plan: EvaluationPlan, session: Session, pretrained: str) -> Task:
    """Finds encoder and words to train on, or the recogniser that was already trained on them.

    Words for validation are of `train.validation_source`, where there is one, or the end of the
    seeded order of `train.source`, whose words to train on end before them.

    Raises:
      ConfigError: the workdir holds another run, or `pretrained` no encoder.
      ValueError: unknown charset, no such source, or no usable words.
    """
    labels, workdir = plan.train, session.workdir
    words.check_sources((*labels.source, *labels.validation_source), plan.benchmarks)
    start = starting_point(plan, pretrained)
    head = start.head
    if not plan.frozen:
        architecture = start.encoder.origin["model"]["encoder"]
        check_drop_path("config.train.drop_path", labels.drop_path, architecture)
    source = open_source(labels.source, weights=labels.weights or None, seed=plan.seed)
    others = open_source(labels.validation_source) if labels.validation_source else source
    found = start.decoder_params
    run = identity(plan, start.encoder, found)
    task = Task(plan, session, start.encoder, head, start.is_random, run, decoder_params=found)
    if (workdir / RECOGNIZER).is_dir():
        finished = Recognizer.from_checkpoint(
            workdir, batch_size=plan.eval_batch_size, beams=plan.decoder.beams or None
        )
        refuse_another_run(session, "recogniser", finished.description["run"], run)
        return dataclasses.replace(task, finished=finished)
    choose = functools.partial(
        words.choose_words,
        seed=plan.seed if labels.subset_seed is None else labels.subset_seed,
        charset=head.charset,
        max_length=head.max_length,
        faults=session.faults(),
    )
    apart = labels.validation if others is source else 0
    chosen = choose(source, labels=labels.labels, held_out=apart)
    logger.info("labels: %d words of %s", len(chosen.subset), source.name)
    task = dataclasses.replace(task, plan=in_passes(plan, len(chosen.subset)))
    held_out = None
    if labels.validation:
        if others is source:
            held_out = choose(source, labels=1.0, held_out=apart, at_end=True)
        else:
            held_out = choose(others, labels=labels.validation)
        logger.info("validation: %d other words of %s", len(held_out.subset), others.name)
    return dataclasses.replace(task, chosen=chosen, held_out=held_out)
