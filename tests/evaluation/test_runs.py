"""Several runs in one command: what is planned, and what their summary says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcmstr_jax.configs.evaluate import common, finetune_transformer, score, semi_supervised
from rcmstr_jax.evaluation import runs
from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.metrics.words import Score
from rcmstr_jax.runtime.files import from_json


def result(right: int, labels: int = 20) -> Evaluation:
    """The results of a run that read `right` of ten words."""
    scored = Score(10, right, float(right), float(right)).as_percent().__dict__
    empty = Score().as_percent().__dict__
    content = {
        "protocol": "finetune",
        "decoder": "ctc",
        "charset": 36,
        "initialisation": "pretrained",
        "encoder": {"source": "runs/x"},
        "policy": "alphanumeric",
        "labels_outside_charset": 0,
        "sets": [
            {"name": "SVT_10", "path": "", "published_size": False, "fault": "", **scored},
            {"name": "gone", "path": "", "published_size": None, "fault": "gone is empty", **empty},
        ],
        "weighted_mean": scored,
        "macro_average": {"num_sets": 1, **scored},
        "train": {
            "source": ["lmdb:a"],
            "labels_asked": 1.0,
            "labels": {
                **dict.fromkeys(("unlabelled", "outside_charset", "too_long", "unreadable"), 0),
                "available": 20,
                "examined": 20,
                "trained_on": labels,
            },
            "steps": 3,
            "batch_size": 8,
        },
        "policies": {},
        "seed": 0,
        "command": "",
        "device": "",
        "seconds": {},
    }
    return from_json(Evaluation, content)


def test_the_random_encoder_stands_beside_every_share_and_seed() -> None:
    config = semi_supervised.get_config("mini")
    planned = runs.plan_runs(config, "runs/cnn")
    assert [run.folder for run in planned] == [
        f"labels_{labels}/{name}/seed_{seed}"
        for labels in ("0.1", "1")
        for seed in (0, 1)
        for name in ("random_init", "pretrained")
    ]
    assert {run.pretrained for run in planned if run.initialisation == "random_init"} == {
        "random:runs/cnn"
    }
    assert {(run.labels, run.seed) for run in planned} == {(0.1, 0), (0.1, 1), (1.0, 0), (1.0, 1)}


def test_a_single_run_has_the_workdir_itself() -> None:
    config = common.get_config()
    assert [run.folder for run in runs.plan_runs(config, "random:runs/cnn")] == [""]
    assert [run.folder for run in runs.plan_runs(config, "runs/cnn")] == [
        "random_init",
        "pretrained",
    ]
    config.random_beside = False
    assert runs.plan_runs(config, "runs/cnn") == [runs.Run("", "pretrained", "runs/cnn", 1.0, 0)]
    config.seeds = (3,)
    assert runs.plan_runs(config, "runs/cnn") == [runs.Run("", "pretrained", "runs/cnn", 1.0, 3)]


def test_scoring_is_one_run() -> None:
    config = score.get_config()
    config.seeds = (1, 2)
    assert [run.folder for run in runs.plan_runs(config, "runs/recogniser")] == [""]


def test_all_runs_and_their_summary(monkeypatch, tmp_path: Path, capsys) -> None:
    right = iter([2, 4, 4, 8])
    asked = []

    def run_evaluation(plan, workdir, pretrained):
        asked.append((plan.seed, plan.train.labels, pretrained, Path(workdir)))
        return result(next(right))

    monkeypatch.setattr(runs, "run_evaluation", run_evaluation)
    config = finetune_transformer.get_config()
    config.seeds = (0, 5)
    found = runs.run_all(config, tmp_path, "runs/vit")
    assert len(found) == 4
    assert asked[3] == (5, 1.0, "runs/vit", tmp_path / "pretrained/seed_5")
    assert config.seed == 0  # the caller's config stays as it is
    table = json.loads((tmp_path / "summary.json").read_text())
    assert [row["initialisation"] for row in table] == ["random_init", "pretrained"]
    # 20 and 40 %; 40 and 80 %: means 30 and 60, sample deviations 20/sqrt(2) and 40/sqrt(2).
    assert [row["weighted_mean"]["word_accuracy"] for row in table] == [
        [30.0, 14.1421],
        [60.0, 28.2843],
    ]
    assert table[0]["sets"]["gone"]["word_accuracy"] == [None, None]
    assert table[0]["seeds"] == [0, 5] and table[0]["trained_on"] == [20, 20]
    text = (tmp_path / "summary.md").read_text()
    assert "30.00 ± 14.14" in text and "60.00 ± 28.28" in text
    assert "case-insensitive" in text and "the encoder is the same" in text
    assert "60.00 ± 28.28" in capsys.readouterr().out


def test_one_seed_has_no_deviation() -> None:
    run = runs.Run("", "pretrained", "x", 1.0, 0)
    assert runs.summarise([run], [result(5)])[0].weighted_mean["word_accuracy"] == (50.0, None)


@pytest.mark.parametrize("module", [semi_supervised, finetune_transformer])
def test_variants(module) -> None:
    for variant in ("full", "mini", "test"):
        assert module.get_config(variant).random_beside
    with pytest.raises(ValueError, match="did you mean 'mini'"):
        module.get_config("minj")
