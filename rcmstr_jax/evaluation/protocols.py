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
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax

from rcmstr_jax.data.benchmarks import resolve_benchmarks
from rcmstr_jax.evaluation import report
from rcmstr_jax.evaluation.analysis import read_training_words
from rcmstr_jax.evaluation.results import RESULTS_JSON, Evaluation, Training
from rcmstr_jax.evaluation.scoring import count_outside, score_benchmarks, score_table
from rcmstr_jax.metrics.tables import text_table
from rcmstr_jax.recognition import fitting
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import recognizer_home
from rcmstr_jax.recognition.task import prepare
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import from_json
from rcmstr_jax.training.loop import open_session
from rcmstr_jax.training.plan import EvaluationPlan

logger = logging.getLogger(__name__)


def run_evaluation(
    plan: EvaluationPlan,
    workdir: str | Path,
    pretrained: str,
    *,
    command: str | None = None,
    **options: Any,
) -> Evaluation:
    """Trains a recogniser on labels, or takes a trained one, and scores it on every benchmark.

    Run again, it goes on with an interrupted training, and scores a finished recogniser anew.

    Args:
      workdir: where the recogniser, results.json, results.md, predictions.jsonl, metrics.jsonl and
        faults.json are written.
      pretrained: see `recognition.encoders.load_encoder`; `random` for the plan's own model,
        untrained. A recogniser is continued (`recognition.start`). With `protocol="score"` what
        `Recognizer.from_pretrained` takes.
      command: the command line for the report; `sys.argv` by default.
      **options: see `training.loop.open_session`.

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
        if plan.protocol == "score":
            home = recognizer_home(pretrained)
            if Path(workdir).resolve() == home.resolve():
                raise ValueError(
                    f"--workdir={workdir} is the recogniser's own, whose results would be"
                    " overwritten: give another --workdir"
                )
    with open_session(
        workdir,
        compilation_cache=plan.loop.compilation_cache,
        **options,
    ) as session:
        task = None
        texts: Iterable[str] | None
        with reported_as_config_error():
            if plan.protocol != "score":
                task = prepare(plan, session, pretrained)
            else:
                recognizer = Recognizer.from_pretrained(
                    pretrained, batch_size=plan.eval_batch_size, beams=plan.decoder.beams or None
                )
                texts = read_training_words(home)
                session.faults().clear()  # an earlier scoring's are not this one's
        if task is not None:
            recognizer, texts = fitting.obtain_recognizer(task, clock)
            texts = read_training_words(session.workdir) if texts is None else texts
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


@contextlib.contextmanager
def reported_as_config_error(*kept: type[Exception]) -> Iterator[None]:
    """What is wrong before any work begins is a mistake in what was asked for; `kept` pass."""
    try:
        yield
    except (ValueError, OSError, CheckpointError) as error:
        if isinstance(error, (ConfigError, *kept)):
            raise
        raise ConfigError(str(error)) from error
