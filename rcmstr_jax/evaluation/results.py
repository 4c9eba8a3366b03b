"""What an evaluation found, from scoring to report; results.json holds the same names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rcmstr_jax.metrics.words import MacroAverage, Percent
from rcmstr_jax.recognition.words import LabelCounts
from rcmstr_jax.runtime.files import from_json

RESULTS_JSON = "results.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSet:
    """A set of labelled words, see `data.benchmarks` (`accepted` is `published_size` here)."""

    name: str
    path: str
    published_size: bool | None
    fault: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetScore(Percent, BenchmarkSet):
    """The score of one set."""

    @property
    def is_empty(self) -> bool:
        """Whether it holds no word at all, not even one whose label the policy leaves out."""
        return not self.num_words and not self.num_empty_labels_left_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of all sets under a case policy, both means, and all words under every policy."""

    policy: str
    sets: list[SetScore]
    weighted_mean: Percent
    macro_average: MacroAverage
    policies: dict[str, Percent]


@dataclasses.dataclass(frozen=True)
class Training:
    """What a recogniser was trained on, as `recognition.fitting` describes it."""

    source: list[str]
    labels_asked: float
    labels: LabelCounts
    steps: int
    batch_size: int
    validation_words: int = 0
    validation: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Scores):
    """Everything that results.json holds.

    Attributes:
      protocol: how the recogniser was trained.
      initialisation: "pretrained" or "random_init".
      encoder: where it comes from, see `recognition.encoders`.
      train: what the recogniser was trained on.
      seed: of the training.
      decoder: its name.
      charset: how many characters it knows.
      labels_outside_charset: scored words that hold another character.
      benchmarks: folder of the sets.
      command: that made it.
      device: that it ran on.
      seconds: by part of the work.
      config: of the evaluation.
    """

    protocol: str
    initialisation: str
    encoder: dict[str, Any]
    train: Training
    seed: int
    decoder: str
    charset: int
    labels_outside_charset: int
    benchmarks: str = ""
    command: str
    device: str
    seconds: dict[str, float]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, workdir: str | Path) -> Evaluation | None:
        """results.json of a workdir; None without, or for the table of launch/compare.py.

        Raises:
          ValueError: the file is no JSON, or lacks something.
        """
        path = Path(workdir) / RESULTS_JSON
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if "sets" not in content:
                return None
            if "plain_mean" in content:  # its name in older files
                content["macro_average"] = content.pop("plain_mean")
            return from_json(cls, content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
