"""What an evaluation of a dense task found; results.json holds the same names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rcmstr_jax.metrics.intervals import LEVEL, bootstrap
from rcmstr_jax.metrics.tables import markdown_table, show
from rcmstr_jax.metrics.words import Spread

# How measures are called in tables.
TITLES = {
    "psnr": "PSNR dB",
    "ssim": "SSIM",
    "iou": "IoU %",
    "precision": "precision %",
    "recall": "recall %",
    "f": "F %",
    "words": "words right %",
}
_IN_PERCENT = ("iou", "precision", "recall", "f", "words")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measure over the images of a set, and the 95 % interval of a bootstrap over them."""

    value: float | None
    interval: list[float | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """A method on a set.

    Attributes:
      method: "network", a baseline, or what the network was given.
      measures: by name, see `TITLES`.
    """

    method: str
    measures: dict[str, Estimate]


@dataclasses.dataclass(frozen=True)
class SetScores:
    """A set.

    Attributes:
      name: its spec.
      images: that were scored.
      left_out: that could not be used, faults.json says why.
      labelled: images whose word is known.
      rows: the methods.
    """

    name: str
    images: int
    left_out: int
    labelled: int
    rows: list[Row]


@dataclasses.dataclass(frozen=True)
class DenseTraining:
    """What a network was trained on."""

    source: str
    labels_asked: float
    available: int
    trained_on: int
    steps: int
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseEvaluation:
    """Everything that results.json holds.

    Attributes:
      task: "segmentation" or "super_resolution".
      protocol: "frozen" or "finetune".
      initialisation: "pretrained" or "random_init".
      encoder: where it comes from, see `recognition.encoders`.
      seed: of the training.
      train: what the network was trained on.
      scored: the sets.
      recognizer: that read words, "" for none.
      images_per_second: of the network, compiled, without reading and scoring.
      command: that made it.
      device: that it ran on.
      seconds: by part of the work.
      config: of the evaluation.
    """

    task: str
    protocol: str
    initialisation: str
    encoder: dict[str, Any]
    seed: int
    train: DenseTraining
    scored: list[SetScores]
    recognizer: str
    images_per_second: float
    command: str
    device: str
    seconds: dict[str, float]
    config: dict[str, Any]


def estimate(name: str, numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Estimate:
    """A ratio of sums over images, in % where that is usual; None where nothing is divided by."""
    total = float(denominator.sum())
    if not total:
        return Estimate(None, [None, None])
    factor = 100.0 if name in _IN_PERCENT else 1.0
    with np.errstate(invalid="ignore"):  # a resample may hold nothing to divide by
        drawn = factor * bootstrap(numerator, denominator, seed=seed)
    drawn = drawn[np.isfinite(drawn)]
    ends: list[float | None] = [None, None]
    if len(drawn):
        found = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        ends = [round(float(end), 4) for end in found]
    return Estimate(round(factor * float(numerator.sum()) / total, 4), ends)


def table_rows(scored: SetScores) -> list[tuple[str, ...]]:
    """Header, then a row per method."""
    names = list(dict.fromkeys(name for row in scored.rows for name in row.measures))
    rows: list[tuple[str, ...]] = [("method", *(TITLES[name] for name in names))]
    for row in scored.rows:
        cells = [show_estimate(name, row.measures.get(name)) for name in names]
        rows.append((row.method, *cells))
    return rows


def show_estimate(name: str, found: Estimate | None) -> str:
    """`43.21 [40.10, 46.32]`; SSIM with four decimals."""
    if found is None or found.value is None:
        return "–"
    digits = 4 if name == "ssim" else 2
    low, high = found.interval
    ends = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{found.value:.{digits}f}{ends}"


def show_spread(name: str, found: Spread) -> str:
    """Mean and deviation over seeds; SSIM with four decimals."""
    if name != "ssim" or found[0] is None:
        return show(*found)
    return f"{found[0]:.4f}" + ("" if found[1] is None else f" ± {found[1]:.4f}")


def describe(results: DenseEvaluation) -> list[str]:
    """The sentences that belong under every table."""
    train, statistics = results.train, results.encoder.get("statistics")
    calibrated = f" Its batch statistics are {statistics}, its weights as drawn."
    reader = results.recognizer
    return [
        f"Task {results.task}, protocol {results.protocol}; encoder: {results.initialisation}"
        f" ({results.encoder.get('source', 'random')}).{calibrated if statistics else ''}",
        f"Trained on {train.trained_on} images of {train.source} ({train.available} available;"
        f" train.labels={train.labels_asked:g}), {train.steps} steps of {train.batch_size}.",
        "In brackets the 95 % interval of a bootstrap over the images of a set.",
        *([f"Words are read by {reader}, letters and digits, case-insensitive."] if reader else []),
    ]


def results_markdown(results: DenseEvaluation) -> str:
    """results.md: a table per set, what it rests on, command line, seed, time."""
    lines = ["# Evaluation", ""]
    for scored in results.scored:
        lost = f", {scored.left_out} left out (faults.json)" if scored.left_out else ""
        lines += [f"## {scored.name}", "", f"{scored.images} images{lost}.", ""]
        lines += [markdown_table(table_rows(scored)), ""]
    lines += [f"{sentence}\n" for sentence in describe(results)]
    lines += [
        f"Command: `{results.command}`",
        "",
        f"Seed {results.seed}; {results.seconds['total']:.0f} s in all, of which"
        f" {results.seconds['train']:.0f} s training; {results.images_per_second:.0f} images per"
        f" second; JAX on {results.device}.",
        "",
    ]
    return "\n".join(lines)
