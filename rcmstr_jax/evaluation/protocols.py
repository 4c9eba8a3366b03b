"""The evaluation protocols: train a recogniser on an encoder, score it on every benchmark.

`run_evaluation` reads from top to bottom: check, load the encoder, choose the words, train,
score, report. Method section 8; its section 9 names the slips that are kept out here: running
statistics are restored with the weights and used in inference mode, nothing of a benchmark is
trained on, and an image that cannot be decoded is skipped in training and an error in a score.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rcmstr_jax.data.benchmarks import resolve_benchmarks
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.evaluation import report
from rcmstr_jax.evaluation.analysis import read_training_words
from rcmstr_jax.evaluation.scoring import SetResult, count_outside, score_benchmarks
from rcmstr_jax.metrics import words as metrics
from rcmstr_jax.recognition import fitting, words
from rcmstr_jax.recognition.encoders import load_encoder, split_pretrained
from rcmstr_jax.recognition.heads import DecoderHead, make_head
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.compilation import enable_compilation_cache
from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.errors import ConfigError

PROTOCOLS = ("frozen", "finetune", "score")
FEATURE_DTYPES = ("float32", "bfloat16", "float16")
FAULTS = "faults.json"
Log = Callable[[str], None]


def run_evaluation(
    config: ConfigDict,
    workdir: str | Path,
    pretrained: str,
    *,
    log: Log | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Trains a recogniser on labels, or takes a trained one, and scores it on every benchmark.

    Run again, it goes on with an interrupted training, and scores a finished recogniser anew.

    Args:
      config: an evaluation config (`configs/evaluate/common.py` explains the fields).
      workdir: where the recogniser, results.json, results.md, predictions.jsonl, metrics.jsonl and
        faults.json are written.
      pretrained: workdir of a pretraining run; `random:DIR` for the encoder as this run started
        from it; `random` for the config's own model, untrained. With `protocol="score"` the
        workdir of an evaluation, whose recogniser is scored.
      log: takes progress lines; they are printed by default.
      command: the command line for the report; `sys.argv` by default.

    Returns:
      What results.json holds.

    Raises:
      ConfigError: an impossible config, source, benchmark root or pretrained folder, or a workdir
        that holds another run; raised before any training.
      Stopped: training was interrupted; its state is saved.
    """
    log = log or (lambda line: print(line, flush=True))
    clock = fitting.Clock()
    workdir = Path(workdir)
    with reported_as_config_error():
        check_config(config)
        benchmarks = resolve_benchmarks(config.benchmarks)
        enable_compilation_cache(config.compilation_cache)
        scores = config.protocol == "score"
        faults = FaultLog(workdir / FAULTS)
        prepare: Callable[..., Obtain] = _take_recognizer if scores else _prepare_training
        obtain = prepare(config, workdir, pretrained, faults, log, clock)
        workdir.mkdir(parents=True, exist_ok=True)
    recognizer, texts = obtain()
    read = score_benchmarks(
        recognizer,
        benchmarks,
        batch_size=config.eval_batch_size,
        workers=config.workers,
        faults=faults,
        log=log,
    )
    faults.write()
    clock.mark("score")
    charset = recognizer.head.charset
    described = ("protocol", "initialisation", "encoder", "train", "seed")
    results = {
        **{name: recognizer.description[name] for name in described},
        "decoder": recognizer.head.name,
        "charset": len(charset.characters),
        **score_table(read, config.policy),
        "labels_outside_charset": count_outside(read, charset),
        "benchmarks": str(config.benchmarks),
        "command": command or shlex.join(sys.argv),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "seconds": clock.report(),
        "config": config_to_jsonable(config),
    }
    lines = (line for result in read for line in result.lines())
    report.write_results(workdir, results, lines, texts)
    log(report.text_table(report.table_rows(results)))
    log("\n".join(report.describe(results)))
    log(f"written: {workdir / report.RESULTS_JSON}, and {report.RESULTS_MD} beside it")
    return results


Obtain = Callable[[], tuple[Recognizer, Iterable[str] | None]]
"""Trains or hands over a recogniser, and the words it was trained on where they are known."""


def _take_recognizer(
    config: ConfigDict, workdir: Path, pretrained: str, faults: FaultLog, *_: Any
) -> Obtain:
    recognizer = Recognizer.from_checkpoint(
        pretrained, batch_size=config.eval_batch_size, beams=config.decoder.beams or None
    )
    if workdir.resolve() == Path(pretrained).resolve():
        raise ValueError(
            f"--workdir={workdir} is the recogniser's own, whose results would be overwritten:"
            " give another --workdir"
        )
    faults.clear()  # an earlier scoring's are not this one's
    return lambda: (recognizer, read_training_words(pretrained))


def _prepare_training(
    config: ConfigDict,
    workdir: Path,
    pretrained: str,
    faults: FaultLog,
    log: Log,
    clock: fitting.Clock,
) -> Obtain:
    specs = words.source_specs(config)
    words.check_sources(specs, config.benchmarks)
    head = configured_head(config)
    encoder = load_encoder(pretrained, config)
    source = open_source(specs, weights=tuple(config.train.weights) or None, seed=config.seed)
    task = fitting.prepare(
        config,
        workdir,
        encoder,
        head,
        source,
        is_random=split_pretrained(pretrained)[0],
        faults=faults,
        log=log,
    )

    def obtain() -> tuple[Recognizer, Iterable[str] | None]:
        recognizer, texts = fitting.obtain_recognizer(task, log=log, clock=clock)
        return recognizer, read_training_words(workdir) if texts is None else texts

    return obtain


@contextlib.contextmanager
def reported_as_config_error() -> Iterator[None]:
    """What is wrong before any work begins is a mistake in what was asked for."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError, CheckpointError) as error:
        raise ConfigError(str(error)) from error


def score_table(read: Sequence[SetResult], policy: str) -> dict[str, Any]:
    """Sets, both means and the other policies as they lie in results.json."""

    def pooled(policy: str) -> metrics.Score:
        return metrics.weighted_mean(result.score(policy) for result in read)

    return {
        "policy": policy,
        "sets": [
            {
                "name": result.name,
                "path": result.path,
                "published_size": result.accepted,
                "fault": result.fault,
                **result.score(policy).as_percent(),
            }
            for result in read
        ],
        "weighted_mean": pooled(policy).as_percent(),
        "plain_mean": metrics.plain_mean(result.score(policy) for result in read),
        "policies": {name: pooled(name).as_percent() for name in metrics.POLICIES},
    }


def check_config(config: ConfigDict) -> None:
    """Refuses values that no run can work with.

    Raises:
      ValueError: naming the field, its value and what it may be.
    """
    if config.protocol not in PROTOCOLS:
        raise ValueError(
            f"protocol={config.protocol!r} is unknown: choose one of {', '.join(PROTOCOLS)}"
        )
    metrics.check_policy(config.policy)
    if config.train.feature_dtype not in FEATURE_DTYPES:
        raise ValueError(
            f"train.feature_dtype={config.train.feature_dtype!r} is unknown: choose one of"
            f" {', '.join(FEATURE_DTYPES)}"
        )
    positive = {
        "train.steps": config.train.steps,
        "train.batch_size": config.train.batch_size,
        "train.steps_per_call": config.train.steps_per_call,
        "train.log_every": config.train.log_every,
        "train.validate_every": config.train.validate_every,
        "eval_batch_size": config.eval_batch_size,
        "decoder.hidden": config.decoder.hidden,
        "decoder.depth": config.decoder.depth,
        "decoder.max_length": config.decoder.max_length,
    }
    for field, value in positive.items():
        if value < 1:
            raise ValueError(f"{field}={value}: must be at least 1")
    if not 0 < config.train.layer_decay <= 1:
        raise ValueError(f"train.layer_decay={config.train.layer_decay}: must lie in (0, 1]")
    if not 0 <= config.train.average < 1:
        raise ValueError(
            f"train.average={config.train.average}: must lie in [0, 1), 0 for no average"
        )
    if config.train.patience and not config.train.validation:
        raise ValueError(
            f"train.patience={config.train.patience} without words to validate on: set"
            " train.validation, or train.patience=0"
        )


def configured_head(config: ConfigDict) -> DecoderHead:
    """The decoder of a config with its alphabet.

    Raises:
      ValueError: unknown decoder or charset.
    """
    return make_head(
        config.decoder.name,
        make_charset(config.decoder.charset),
        hidden=config.decoder.hidden,
        depth=config.decoder.depth,
        max_length=config.decoder.max_length,
        beams=config.decoder.beams,
    )


def make_charset(name: str) -> Charset:
    """The alphabet of `"36"`, `"62"` or `"94"` characters, or that of a text file.

    Raises:
      ValueError: another size, or a file that holds no charset.
    """
    return Charset.preset(int(name)) if str(name).isdecimal() else Charset.from_file(name)
