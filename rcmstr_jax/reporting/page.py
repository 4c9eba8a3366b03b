"""The page: which sections there are, and one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
import importlib.resources
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rcmstr_jax.data.benchmarks import benchmark_spec
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.reporting import learnt, scores, sheets
from rcmstr_jax.reporting.beside import beside_random
from rcmstr_jax.reporting.elements import Section, text
from rcmstr_jax.reporting.representation import Embeddings, Words, embed, load_words
from rcmstr_jax.reporting.runs import Run, evaluations, open_runs
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.config_files import read_config
from rcmstr_jax.runtime.files import write_text
from rcmstr_jax.training.plan import pretrain_plan

WORDS = 2000
logger = logging.getLogger(__name__)


def write_page(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    words: str | None = None,
    num_words: int = WORDS,
    crops: bool = True,
    title: str = "Report",
) -> Path:
    """Writes the report of some runs.

    Args:
      folders: workdirs of pretraining and evaluation.
      out: HTML file to write.
      words: source of the words that networks are shown with, as in `data.source`; the first
        evaluation's scored sets if None, or else what the pretraining run saw.
      num_words: at most so many of them.
      crops: whether the images of the scored sets may be shown in the sheets.
      title: heading of the page.

    Returns:
      The file.

    Raises:
      ValueError: a folder that is no workdir, or words that cannot be read.
    """
    runs = open_runs(folders)
    logger.info("%d runs: %s", len(runs), ", ".join(run.name for run in runs))
    if num_words < 1:
        raise ValueError(f"--num_words={num_words}: give at least 1")
    sections = [
        beside_random(runs),
        scores.overview(runs),
        scores.intervals(runs),
        scores.errors(runs),
        scores.curves(runs),
        sheets.sheets(runs, crops=crops),
    ]
    bank = WordBank(runs, words, num_words, crops)
    logger.info("attention")
    recognizers, lacking = sheets.attending(runs)
    images, unknown = bank.for_recognizers(recognizers.values())
    sections.append(sheets.attention(recognizers, images, lacking + unknown))
    logger.info("representation")
    found, lacking = bank.embeddings()
    for heading, draw in (
        ("One frame and the sub-words", learnt.draw_relations),
        ("Nearest neighbours", learnt.draw_neighbours),
        ("Map of characters", learnt.draw_map),
        ("Reconstructions under masks", learnt.draw_masks),
    ):
        sections.append(learnt.section(heading, draw, found, lacking))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render(title, runs, sections))
    return out


@dataclasses.dataclass
class WordBank:
    """The words that networks are shown with, decoded once for each image size."""

    runs: Sequence[Run]
    spec: str | None
    count: int
    crops: bool
    loaded: dict[tuple[int, int], Words] = dataclasses.field(default_factory=dict)

    def load(self, size: tuple[int, int], fallback: Sequence[str] = ()) -> Words:
        """Words of an image size.

        Raises:
          ValueError: no source is known, or it cannot be read.
        """
        if size not in self.loaded:
            specs: Sequence[str] = [self.spec] if self.spec else self._scored() or fallback
            if not specs:
                raise ValueError("no words are known: give --words=SOURCE")
            self.loaded[size] = load_words(open_source(tuple(specs)), size, self.count)
        return self.loaded[size]

    def _scored(self) -> list[str]:
        """The first evaluation's sets, where they may be shown."""
        first = evaluations(self.runs)[:1] if self.crops else []
        return [
            benchmark_spec(entry.path)
            for _, results in first
            for entry in results.sets
            if entry.num_words
        ]

    def for_recognizers(
        self, recognizers: Iterable[Recognizer]
    ) -> tuple[dict[tuple[int, int], np.ndarray], list[str]]:
        """Images of every size that recognisers take, or why there are none."""
        sizes = {recognizer.encoder.image_size for recognizer in recognizers}
        try:
            return {size: self.load(size).images for size in sizes}, []
        except ValueError as error:
            if self.spec:  # asked for, and not to be had
                raise
            return {}, [f"{error}."]

    def embeddings(self) -> tuple[dict[str, Embeddings], list[str]]:
        """What each pretraining run makes of the words, and why others make nothing."""
        found: dict[str, Embeddings] = {}
        lacking = []
        pretrained = [run for run in self.runs if run.kind == "pretraining"]
        for run in pretrained:
            try:
                plan = pretrain_plan(read_config(run.path))
                words = self.load(plan.model.image_size, plan.data.source[:1])
                found[run.name] = embed(run.path, words)
            except (CheckpointError, ValueError) as error:
                if self.spec and isinstance(error, ValueError):  # asked for, and not to be had
                    raise
                lacking.append(f"{run.name}: {error}.")
        if not pretrained:
            lacking.append("no run on this page is a pretraining run (launch/pretrain.py).")
        return found, lacking


def render(title: str, runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """The whole file."""
    links = "".join(f'<li><a href="#{s.anchor}">{text(s.title)}</a></li>' for s in sections)
    commands = "".join(
        f"<h3>{text(run.name)}</h3><p><code>{text(results.command)}</code></p>"
        for run, results in evaluations(runs)
    )
    listed = ", ".join(f"{text(run.name)} ({run.kind})" for run in runs)
    home = importlib.resources.files("rcmstr_jax.reporting")
    look, script = ((home / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    made = Section("Commands", commands).html() if commands else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{look}</style></head><body>"
        f"<header><h1>{text(title)}</h1><p>{listed}</p></header>"
        f"<nav><ul>{links}</ul></nav><main>{''.join(s.html() for s in sections)}{made}</main>"
        f"<script>{script}</script></body></html>\n"
    )
