"""The evaluation protocols: train a recogniser on an encoder, score it on every benchmark.

`run_evaluation` reads from top to bottom: load the encoder, choose the words, train, score, report.
METHOD.md 8; its section 9 names the slips that are kept out here: running statistics are restored
with the weights and used in inference mode, nothing of a benchmark is trained on, and an image that
cannot be decoded is skipped in training and an error in a score.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax

from rcmstr_jax.data.benchmarks import resolve_benchmarks
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.evaluation import report
from rcmstr_jax.evaluation.analysis import read_training_words
from rcmstr_jax.evaluation.results import RESULTS_JSON, Evaluation, Training
from rcmstr_jax.evaluation.scoring import count_outside, score_benchmarks, score_table
from rcmstr_jax.metrics.tables import text_table
from rcmstr_jax.recognition import fitting, words
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import recognizer_home
from rcmstr_jax.recognition.start import starting_point
from rcmstr_jax.recognition.task import Task, prepare
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import from_json
from rcmstr_jax.training.loop import Session, open_session
from rcmstr_jax.training.plan import EvaluationPlan

logger = logging.getLogger(__name__)


def run_evaluation(
    plan: EvaluationPlan,
    workdir: str | Path,
    pretrained: str,
    *,
    command: str | None = None,
    stall_timeout: float = 600.0,
    profile_steps: tuple[int, int] | None = None,
) -> Evaluation:
    """Trains a recogniser on labels, or takes a trained one, and scores it on every benchmark.

    Run again, it goes on with an interrupted training, and scores a finished recogniser anew.

    Args:
      plan: of the evaluation.
      workdir: where the recogniser, results.json, results.md, predictions.jsonl, metrics.jsonl and
        faults.json are written.
      pretrained: see `recognition.encoders.load_encoder`; `random` for the plan's own model,
        untrained. A recogniser is continued (`recognition.start`). With `protocol="score"` what
        `Recognizer.from_pretrained` takes.
      command: the command line for the report; `sys.argv` by default.
      stall_timeout: see `training.loop.open_session`.
      profile_steps: see `training.loop.open_session`.

    Returns:
      What results.json holds.

    Raises:
      ConfigError: an impossible source, benchmark root or pretrained folder, or a workdir that
        holds another run; raised before any training.
      Stopped: training was interrupted; its state is saved.
    """
    clock = fitting.Clock()
    with reported_as_config_error():
        benchmarks = resolve_benchmarks(plan.benchmarks)
        take: Callable[..., Obtain] = _prepare_training
        if plan.protocol == "score":
            check_score_workdir(workdir, pretrained)
            take = _take_recognizer
    with open_session(
        workdir,
        compilation_cache=plan.loop.compilation_cache,
        stall_timeout=stall_timeout,
        profile_steps=profile_steps,
    ) as session:
        with reported_as_config_error():
            obtain = take(plan, session, pretrained)
        recognizer, texts = obtain(clock)
        faults = session.faults()
        read = score_benchmarks(
            recognizer,
            benchmarks,
            batch_size=plan.eval_batch_size,
            workers=plan.workers,
            faults=faults,
        )
        faults.write()
        clock.mark("score")
        charset = recognizer.head.charset
        described = ("protocol", "initialisation", "encoder", "seed")
        results = Evaluation(
            **vars(score_table(read, plan.policy)),
            **{name: recognizer.description[name] for name in described},
            train=from_json(Training, recognizer.description["train"]),
            decoder=recognizer.head.name,
            charset=len(charset.characters),
            labels_outside_charset=count_outside(read, charset),
            benchmarks=plan.benchmarks,
            command=command or shlex.join(sys.argv),
            device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            seconds=clock.report(),
            config=dict(plan.config),
        )
        if session.leads:
            lines = (line for result in read for line in result.lines())
            report.write_results(session.workdir, results, lines, texts)
            print(text_table(report.table_rows(results)))
            print("\n".join(report.describe(results)))
            written = session.workdir / RESULTS_JSON
            print(f"written: {written}, and {report.RESULTS_MD} beside it", flush=True)
    return results


Obtain = Callable[[fitting.Clock], tuple[Recognizer, Iterable[str] | None]]
"""Trains or hands over a recogniser, and the words it was trained on where they are known."""


def check_score_workdir(workdir: str | Path, pretrained: str) -> None:
    """Refuses to overwrite the results of the recogniser that is scored.

    Raises:
      ValueError: the two folders are the same, or there is no recogniser.
    """
    if Path(workdir).resolve() == recognizer_home(pretrained).resolve():
        raise ValueError(
            f"--workdir={workdir} is the recogniser's own, whose results would be overwritten:"
            " give another --workdir"
        )


def _take_recognizer(plan: EvaluationPlan, session: Session, pretrained: str) -> Obtain:
    recognizer = Recognizer.from_pretrained(
        pretrained, batch_size=plan.eval_batch_size, beams=plan.decoder.beams or None
    )
    session.faults().clear()  # an earlier scoring's are not this one's
    texts = read_training_words(recognizer_home(pretrained))
    return lambda clock: (recognizer, texts)


def _prepare_training(plan: EvaluationPlan, session: Session, pretrained: str) -> Obtain:
    task = prepare_task(plan, session, pretrained)

    def obtain(clock: fitting.Clock) -> tuple[Recognizer, Iterable[str] | None]:
        recognizer, texts = fitting.obtain_recognizer(task, clock)
        return recognizer, read_training_words(session.workdir) if texts is None else texts

    return obtain


def prepare_task(plan: EvaluationPlan, session: Session, pretrained: str) -> Task:
    """Encoder, decoder and words of a training.

    Raises:
      ValueError: what was asked for cannot be had.
    """
    specs, others = plan.train.source, plan.train.validation_source
    words.check_sources((*specs, *others), plan.benchmarks)
    return prepare(
        plan,
        session,
        starting_point(plan, pretrained),
        open_source(specs, weights=plan.train.weights or None, seed=plan.seed),
        validation_source=open_source(others) if others else None,
    )


@contextlib.contextmanager
def reported_as_config_error(*kept: type[Exception]) -> Iterator[None]:
    """What is wrong before any work begins is a mistake in what was asked for; `kept` pass."""
    try:
        yield
    except ConfigError:
        raise
    except kept:
        raise
    except (ValueError, OSError, CheckpointError) as error:
        raise ConfigError(str(error)) from error
