"""Tables, files and the comparison that the quickstart prints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rcmstr_jax.data.benchmarks import Benchmark
from rcmstr_jax.evaluation import comparison, report
from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.evaluation.scoring import SetResult, score_table
from rcmstr_jax.metrics.tables import markdown_table, text_table
from rcmstr_jax.runtime.files import from_json


def results(predictions: list[str], **other: Any) -> Evaluation:
    """The results of two sets of two words each, and one of symbols alone."""
    truth = [["ab", "cd"], ["ef", "gh"]]
    read = [
        SetResult(
            Benchmark(f"S{i}_2", Path(f"bench/S{i}"), 2, None),
            labels,
            predictions[2 * i : 2 * i + 2],
            [True] * 2,
        )
        for i, labels in enumerate(truth)
    ]
    read.append(
        SetResult(Benchmark("symbols", Path("bench/symbols"), 1, False), ["|"], ["|"], [True])
    )
    labels = {"available": 9, "examined": 9, "unlabelled": 1, "outside_charset": 2, "too_long": 3}
    content = {
        "protocol": "frozen",
        "initialisation": "pretrained",
        "encoder": {"source": "runs/x"},
        "decoder": "ctc",
        "charset": 94,
        **dataclasses.asdict(score_table(read, "alphanumeric")),
        "labels_outside_charset": 1,
        "train": {
            "source": ["lmdb:train"],
            "labels_asked": 1.0,
            "labels": labels | {"unreadable": 0, "trained_on": 3},
            "steps": 5,
            "batch_size": 2,
        },
        "seed": 7,
        "command": "python launch/evaluate.py --x=a|b",
        "device": "1 x cpu",
        "seconds": {"train": 1.0, "total": 2.0},
    }
    return from_json(Evaluation, content | other)


def test_table_rows() -> None:
    rows = report.table_rows(results(["ab", "cd", "ef", "xx"]))
    assert rows[1][:4] == ("S0_2", "2", "2", "100.00 ± 0.00")
    assert rows[2][:4] == ("S1_2", "2", "1", "50.00 ± 35.36")
    # All of "symbols" is left out by the policy, and it enters no mean.
    # Its name is known, its size is not.
    assert rows[3] == ("symbols (!)", "0", "0", "–", "–", "0", "0", "1")
    assert rows[4][1:5] == ("4", "3", "75.00 ± 21.65", "75.00 ± 25.00")
    assert rows[5][0] == "macro average of 2 sets" and rows[5][3].startswith("75.00")
    console = text_table(rows).splitlines()
    assert len(console) == len(rows) + 1 and len({line.index("  ") for line in console[:1]}) == 1
    assert all(line.count("|") == 9 for line in markdown_table(rows).splitlines())


def test_how_a_random_encoder_was_prepared_is_said() -> None:
    found = results(["ab"] * 4)
    assert "statistics" not in report.describe(found)[0]
    encoder = {"source": "random", "statistics": "calibrated on 50 batches of 8 images"}
    found = results(["ab"] * 4, encoder=encoder)
    said = "(random). Its batch statistics are calibrated on 50 batches of 8 images of training"
    assert said in report.describe(found)[0]


def test_what_seeds_vary_is_said() -> None:
    one = {"source": "runs/x", "step": 9}
    assert "the encoder is the same." in report.seeds_note([one, {**one}])
    drawn = [{"source": "random", "seed": seed} for seed in (0, 1)]
    assert "every seed has an encoder of its own." in report.seeds_note(drawn)


def test_files(tmp_path: Path) -> None:
    found = results(["ab", "cd", "ef", "xx"])
    line = {"set": "S0_2", "index": 0, "label": "é", "prediction": "e", "confidence": 0.75}
    report.write_results(tmp_path / "new", found, [line], ["b", "e", "b"])
    assert json.loads((tmp_path / "new/results.json").read_text()) == dataclasses.asdict(found)
    assert Evaluation.read(tmp_path / "new") == found
    text = (tmp_path / "new/results.md").read_text()
    for part in ("S0_2", "case-insensitive", "lmdb:train", "--x=a|b", "Seed 7", "case_sensitive"):
        assert part in text
    for part in ("95 % interval", "in training words", "calibration error", "25.00 %"):
        assert part in text
    assert json.loads((tmp_path / "new/predictions.jsonl").read_text()) == line
    assert (tmp_path / "new/training_words.txt").read_text() == "b\ne\n"
    analysis = json.loads((tmp_path / "new/analysis.json").read_text())
    assert analysis["by_seen"][0]["group"] == "seen"


def test_results_of_earlier_runs_load(tmp_path: Path) -> None:
    """Without the names that were added since, and with one that went."""
    content = dataclasses.asdict(results(["ab"] * 4)) | {"reader": "greedy"}
    for name in ("config", "benchmarks"):
        del content[name]
    for score in (content["weighted_mean"], *content["sets"], *content["policies"].values()):
        del score["character_accuracy"]
    content["plain_mean"] = content.pop("macro_average")
    (tmp_path / "results.json").write_text(json.dumps(content))
    found = Evaluation.read(tmp_path)
    assert found is not None and found.weighted_mean.character_accuracy is None
    assert report.describe(found) == report.describe(results(["ab"] * 4))
    del content["policy"]
    with pytest.raises(ValueError, match="Evaluation lacks policy"):
        from_json(Evaluation, content)
    (tmp_path / "results.json").write_text('{"frozen": {}}')  # of launch/compare.py
    assert Evaluation.read(tmp_path) is None


def test_compare_makes_the_quickstart_json(tmp_path: Path) -> None:
    bad, good = results(["xx"] * 4), results(["ab", "cd", "ef", "xx"])
    for protocol in ("frozen", "finetuned"):
        report.write_results(tmp_path / f"{protocol}_random_init", bad, [])
        report.write_results(tmp_path / f"{protocol}_pretrained", good, [])
    table = comparison.compare_runs(tmp_path)
    assert list(table) == ["frozen", "finetuned"]
    expected = {
        "word_accuracy": 75.0,
        "one_minus_ned": 75.0,
        "word_accuracy_stderr": 21.6506,
        "one_minus_ned_stderr": 25.0,
        "num_words": 4,
    }
    assert expected.items() <= dataclasses.asdict(table["frozen"]["pretrained"]).items()
    assert table["finetuned"]["random_init"].word_accuracy == 0.0
    assert "+75.00 ± 25.00" in comparison.comparison_table(table)


def test_compare_refuses_what_was_not_scored_alike(tmp_path: Path) -> None:
    one, other = results(["ab"] * 4), results(["ab"] * 4, policy="symbols")
    pair = {"random_init": one, "pretrained": one}
    with pytest.raises(ValueError, match="finetuned/pretrained.*symbols"):
        comparison.compare(pair, {"random_init": one, "pretrained": other})
    first = dataclasses.replace(one.sets[0], num_words=1)
    smaller = dataclasses.replace(one, sets=[first, *one.sets[1:]])
    with pytest.raises(ValueError, match="not scored alike"):
        comparison.compare({"random_init": smaller, "pretrained": one}, pair)
    with pytest.raises(ValueError, match="frozen_random_init/results.json is missing"):
        comparison.compare_runs(tmp_path)
