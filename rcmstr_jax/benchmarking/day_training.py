"""What is trained on a day with an accelerator: words are rendered, learnt from, and read."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rcmstr_jax.benchmarking.day import Day, Unfinished
from rcmstr_jax.data.synthetic import fontfiles
from rcmstr_jax.data.synthetic.export import export_words
from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.data.synthetic.source import SyntheticSource
from rcmstr_jax.evaluation.runs import run_all
from rcmstr_jax.metrics.tables import show
from rcmstr_jax.recognition.fitting import Stopped
from rcmstr_jax.runtime.errors import RunFailed
from rcmstr_jax.runtime.files import write_json, write_text
from rcmstr_jax.runtime.writers import METRICS, SPEEDS
from rcmstr_jax.training.pretraining import pretrain

MOST_WORDS, HELD_OUT = 400_000, 2000
BATCH = 256
PROBE_STEPS = 60
# Of the time planned: compilation, saving, scoring and pictures take the rest.
RENDERING, TRAINING = 0.7, 0.8
Parts = Iterator[dict[str, Any]]


def look(day: Day) -> dict[str, Any]:
    """Options of the renderer that need nothing but what is here: words and fonts."""
    words = Path(day.words) if day.words else day.work / "words.txt"
    if not words.is_file():
        words.parent.mkdir(parents=True, exist_ok=True)
        write_text(words, "\n".join(manual_words()) + "\n")
    here = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    fonts = tuple(f"package:{name}" for name in fontfiles.PACKAGES if name in here)
    return {"words_from": str(words.resolve()), "fonts": fonts}


def manual_words() -> list[str]:
    """Words of Python's own manual, which is wherever Python is, most frequent first."""
    from pydoc_data.topics import topics

    found = re.findall(r"(?<![\w.`*])[A-Za-z]{2,}(?![\w`*(=])", "\n".join(topics.values()))
    return [word for word, _ in collections.Counter(found).most_common()]


def smoke(day: Day) -> Parts:
    """A few steps of the whole method through the loop, with checkpoints."""
    workdir = day.work / "smoke"
    shutil.rmtree(workdir, ignore_errors=True)
    config = day.configs["pretrain" if day.small else "smoke"]()
    if day.small:
        _make_small(config)  # the same program as in pretraining
    _use(config, day)
    outcome = pretrain(config, workdir)
    if not outcome.finished:
        raise Unfinished
    lines = _lines(workdir / METRICS)
    losses = [line["loss"] for line in lines]
    said = ", ".join(f"{loss:.4f}" for loss in losses)
    yield {"losses": losses, "page": f"{outcome.step} steps, saved twice; losses {said}."}


def words(day: Day) -> Parts:
    """Renders words for training and others, of other spelling, for scoring."""
    cores = len(os.sched_getaffinity(0))
    options = {"split": "train", **look(day)}
    source = SyntheticSource(1, options=RenderOptions.preset("scene", **options))
    start = time.perf_counter()
    for index in range(20):
        source[index]
    alone = 20 / (time.perf_counter() - start)
    count, held_out, workers = 96, 24, 0
    if not day.small:
        rate = alone * cores * RENDERING
        count, held_out, workers = min(MOST_WORDS, int(rate * day.seconds)), HELD_OUT, cores
    start = time.perf_counter()
    export_words(source, _folder(day, "train"), num=count, workers=workers, overwrite=True)
    rate = count / (time.perf_counter() - start)
    test = RenderOptions.preset("scene", **{**options, "split": "test"})
    export_words(
        SyntheticSource(2, options=test), _folder(day, "benchmark/held_out"),
        num=held_out, workers=workers, overwrite=True,
    )  # fmt: skip
    if day.benchmarks:
        shutil.copytree(day.benchmarks, _folder(day, "benchmark"), dirs_exist_ok=True)
    yield {
        "words": count,
        "words_per_second": rate,
        "page": f"{count:,} words in {len(source.faces)} faces, {rate:,.0f} a second on {cores} "
        f"core(s); {held_out} of other spelling to be read.",
    }


def pretrain_compact(day: Day) -> Parts:
    """The whole method on the compact encoder, for its share of the time."""
    workdir, config = day.work / "pretrain", day.configs["pretrain"]()
    config.data.source = (f"lmdb:{_folder(day, 'train')}",)
    if day.small:
        _make_small(config)
    else:
        measured = day.result("step_compact_bfloat16")
        if measured is None or measured.error:
            raise RunFailed("how long it may train follows from step_compact_bfloat16, not there")
        rate = TRAINING * measured.found["rows"][0]["words_per_second"]
        config.batch_size = BATCH
        config.model.dtype = "bfloat16"
        config.total_images = BATCH * _kept(
            day, "pretrain", max(int(rate * day.seconds / BATCH), 10)
        )
        config.optimizer.warmup_images = config.total_images // 10
        config.checkpoint_every = 500
    outcome = pretrain(config, workdir)
    if not outcome.finished:
        raise Unfinished
    first, last = (_lines(workdir / METRICS)[place] for place in (0, -1))
    yield {
        "steps": outcome.step,
        "metrics": last,
        "speed": _lines(workdir / SPEEDS)[-1],
        "page": f"{outcome.step:,} steps of {config.batch_size}: loss {first['loss']:.3f} to "
        f"{last['loss']:.3f}; {_speed(workdir)}",
    }


def recognise(day: Day) -> Parts:
    """A recogniser on that encoder, trained on labels for what is left, and scored."""
    if day.small:
        steps = None
    else:
        start = time.monotonic()
        steps = _kept(day, "recognise", 0)
        if not steps:
            _train_recogniser(day, "probe", PROBE_STEPS)
            rate = _lines(day.work / "probe" / SPEEDS)[-1]["speed/steps_per_second"]
            overhead = time.monotonic() - start
            left = TRAINING * day.seconds - 2 * overhead
            steps = _kept(day, "recognise", max(int(rate * left), PROBE_STEPS))
    result = _train_recogniser(day, "recognise", steps)
    scored = {score.name: score.word_accuracy for score in result.sets}
    said = ", ".join(f"{name} {show(value)} %" for name, value in scored.items())
    yield {
        "accuracy": scored,
        "speed": _lines(day.work / "recognise" / SPEEDS)[-1],
        "page": f"{result.train.steps:,} steps of {result.train.batch_size}, encoder: "
        f"{result.initialisation}. Words read right: {said}. {_speed(day.work / 'recognise')}",
    }


def _train_recogniser(day: Day, name: str, steps: int | None) -> Any:
    config = day.configs["recognise"]()
    config.benchmarks = _folder(day, "benchmark")
    config.train.source = (f"lmdb:{_folder(day, 'train')}",)
    if steps is not None:
        config.train.labels = 1.0
        config.train.steps = steps
        config.train.batch_size = BATCH
        config.train.validate_every = max(steps // 4, 1)
        config.train.log_every = 20
        config.model.dtype = "bfloat16"
        config.workers = len(os.sched_getaffinity(0))
    try:
        (result,) = run_all(config, day.work / name, _encoder(day))
    except Stopped as stopped:
        raise Unfinished from stopped
    return result


def _encoder(day: Day) -> str:
    """The pretrained one; an untrained one where pretraining failed."""
    pretrained = day.result("pretrain")
    return "random" if pretrained is None or pretrained.error else str(day.work / "pretrain")


def _kept(day: Day, name: str, steps: int) -> int:
    """The number of steps that was planned first, which a continued run keeps; 0 plans none."""
    path = day.work / f"{name}-steps.json"
    if path.is_file():
        return int(json.loads(path.read_text(encoding="utf-8")))
    if steps:
        write_json(path, steps)
    return steps


def _use(config: ConfigDict, day: Day) -> None:
    """Rendered words as they can be rendered here, in place."""
    for name, value in look(day).items():
        config.data.synthetic[name] = value


def _make_small(config: ConfigDict) -> None:
    config.model.width, config.model.blocks, config.model.attention = 16, (1, 1, 1), 1
    config.model.projector_hidden = config.model.predict_dim = 16
    config.total_images, config.batch_size, config.log_every = 16, 8, 1
    config.optimizer.warmup_images = 8
    config.contrast.queue_size, config.contrast.chunk = 256, 64
    config.views.enabled = False
    config.data.workers, config.picture_every = 0, -1


def _folder(day: Day, name: str) -> str:
    return str(day.work / "rendered" / name)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _speed(workdir: Path) -> str:
    line = _lines(workdir / SPEEDS)[-1]
    waiting = 100 * line["speed/share_waiting_for_data"]
    return f"{line['speed/words_per_second']:,.0f} words a second, {waiting:.0f} % of it waiting."
