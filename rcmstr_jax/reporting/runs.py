"""Workdirs of pretraining and of evaluation, read for a page; nothing is computed anew."""

from __future__ import annotations

import dataclasses
import functools
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rcmstr_jax.evaluation.analysis import (
    PREDICTIONS,
    Analysis,
    analyse,
    read_predictions,
    read_training_words,
)
from rcmstr_jax.evaluation.results import RESULTS_JSON, Evaluation
from rcmstr_jax.evaluation.watch import WATCH
from rcmstr_jax.metrics.intervals import Line
from rcmstr_jax.runtime.config_files import CONFIG_JSON, read_config
from rcmstr_jax.runtime.curves import read_metrics
from rcmstr_jax.runtime.writers import METRICS


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
    results: Evaluation | None

    @functools.cached_property
    def lines(self) -> list[Line]:
        """What was read, word by word; empty where the run keeps no predictions."""
        return read_predictions(self.path) if (self.path / PREDICTIONS).is_file() else []

    @functools.cached_property
    def analysis(self) -> Analysis | None:
        """analysis.json; made from the predictions for a run that left none."""
        kept = Analysis.read(self.path)
        if kept is not None or not self.lines or self.results is None:
            return kept
        words = read_training_words(self.path)
        return analyse(self.lines, policy=self.results.policy, training_words=words)

    @functools.cached_property
    def curves(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Metrics over steps; empty for a run that logged none."""
        files = (self.path / METRICS, self.path / WATCH / METRICS)
        return dict(ChainMap(*(read_metrics(file) for file in files[::-1] if file.is_file())))

    @property
    def kind(self) -> str:
        """An "evaluation" has results, "pretraining" its config; anything else has "curves"."""
        if self.results is not None:
            return "evaluation"
        return "pretraining" if _is_pretraining(self.path) else "curves"


def open_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in the order given; a folder of runs (seeds, a quickstart) stands for all of them.

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
        runs.append(Run(path, _short_name(where, resolved), number, Evaluation.read(path)))
    return runs


def _expanded(folder: Path) -> list[Path]:
    """The folder itself, or the pretraining runs and evaluations below one that is no workdir."""
    if Evaluation.read(folder) or any((folder / n).is_file() for n in (CONFIG_JSON, METRICS)):
        return [folder]
    pretrained = {path.parent for path in folder.rglob(CONFIG_JSON)}
    scored = {path.parent for path in folder.rglob(RESULTS_JSON)}
    below = sorted(path for path in pretrained - scored if _is_pretraining(path))
    below += sorted(path for path in scored if Evaluation.read(path))
    if not below:
        raise ValueError(
            f"{folder} is no workdir: neither it nor a folder below it holds the {RESULTS_JSON} of"
            f" an evaluation (launch/evaluate.py) or the {CONFIG_JSON} of launch/pretrain.py"
        )
    return below


def _is_pretraining(folder: Path) -> bool:
    """Whether the config there is of pretraining: one of recognition names its protocol."""
    return (folder / CONFIG_JSON).is_file() and "protocol" not in read_config(folder)


def _short_name(path: Path, others: Sequence[Path]) -> str:
    """As many last parts of the path as tell it from the others."""
    for count in range(1, len(path.parts) + 1):
        tail = path.parts[-count:]
        if sum(other.parts[-count:] == tail for other in others) == 1:
            return "/".join(tail)
    return str(path)


NO_EVALUATION = "no run on this page is an evaluation (launch/evaluate.py)."


def without(what: str, names: Sequence[str]) -> list[str]:
    """The sentence that says which runs lack something, or none."""
    return [f"no {what} in {', '.join(names)}."] if names else []


def evaluations(runs: Sequence[Run]) -> list[tuple[Run, Evaluation]]:
    """The runs that have results, with these."""
    return [(run, run.results) for run in runs if run.results is not None]
