"""Workdirs of pretraining and of evaluation, read for a page; nothing is computed anew."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcmstr_jax.evaluation.analysis import (
    ANALYSIS,
    PREDICTIONS,
    analyse,
    read_predictions,
    read_training_words,
)
from rcmstr_jax.evaluation.report import RESULTS_JSON
from rcmstr_jax.runtime.curves import read_metrics

CONFIG, METRICS = "config.json", "metrics.jsonl"
# Measures of a running pretraining lie in this folder of its workdir (evaluate.py --watch).
WATCH = "watch"


@dataclasses.dataclass(frozen=True)
class Run:
    """A workdir.

    Attributes:
      path: the folder.
      name: what it is called on the page, unique there.
      colour: its number on the page.
      results: results.json of an evaluation, None of anything else.
    """

    path: Path
    name: str
    colour: int
    results: dict[str, Any] | None

    @functools.cached_property
    def lines(self) -> list[dict[str, Any]]:
        """What was read, word by word; empty where the run keeps no predictions."""
        return read_predictions(self.path) if (self.path / PREDICTIONS).is_file() else []

    @functools.cached_property
    def analysis(self) -> dict[str, Any] | None:
        """analysis.json; made from the predictions for a run that left none."""
        path = self.path / ANALYSIS
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        if not self.lines or self.results is None:
            return None
        words = read_training_words(self.path)
        return analyse(self.lines, policy=self.results["policy"], training_words=words)

    @functools.cached_property
    def curves(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Metrics over steps; empty for a run that logged none."""
        files = [folder / METRICS for folder in (self.path, self.path / WATCH)]
        curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for file in files:
            curves |= read_metrics(file) if file.is_file() else {}
        return curves

    @property
    def is_pretraining(self) -> bool:
        """Whether a config lies there, and no results."""
        return self.results is None and (self.path / CONFIG).is_file()


def open_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in the order given; a folder of evaluations (several seeds) stands for all of them.

    Raises:
      ValueError: no folder, or one that is no workdir, or one named twice.
    """
    paths = [path for folder in folders for path in _expanded(Path(folder))]
    if not paths:
        raise ValueError("name at least one workdir: python launch/report.py RUN [RUN ...]")
    resolved = [path.resolve() for path in paths]
    runs = []
    for number, (path, where) in enumerate(zip(paths, resolved, strict=True)):
        if where in resolved[:number]:
            raise ValueError(f"{path} is named twice")
        results = path / RESULTS_JSON
        found = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else None
        if found is not None and "sets" not in found:
            raise ValueError(f"{results} is not of an evaluation: it holds no sets")
        runs.append(Run(path, _short_name(where, resolved), number, found))
    return runs


def _expanded(folder: Path) -> list[Path]:
    """The folder itself, or the evaluations below one that is no workdir."""
    if any((folder / name).is_file() for name in (RESULTS_JSON, CONFIG, METRICS)):
        return [folder]
    below = sorted(path.parent for path in folder.rglob(RESULTS_JSON))
    if not below:
        raise ValueError(
            f"{folder} is no workdir: neither it nor a folder below it holds {RESULTS_JSON}"
            f" (launch/evaluate.py), and it has no {CONFIG} (launch/pretrain.py)"
        )
    return below


def _short_name(path: Path, others: Sequence[Path]) -> str:
    """As many last parts of the path as tell it from the others."""
    for count in range(1, len(path.parts) + 1):
        tail = path.parts[-count:]
        if sum(other.parts[-count:] == tail for other in others) == 1:
            return "/".join(tail)
    return str(path)


def without(what: str, names: Sequence[str]) -> list[str]:
    """The sentence that says which runs lack something, or none."""
    return [f"no {what} in {', '.join(names)}."] if names else []


def evaluations(runs: Sequence[Run]) -> list[Run]:
    """The runs that have results."""
    return [run for run in runs if run.results is not None]
