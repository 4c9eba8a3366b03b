"""The page of evaluations: nothing but what their files hold, and nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.data.benchmarks import Benchmark
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.evaluation import report
from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.evaluation.scoring import SetResult, score_table
from rcmstr_jax.reporting.page import WordBank, write_page
from rcmstr_jax.reporting.runs import open_runs
from rcmstr_jax.reporting.sheets import draw_words, marked, spread
from rcmstr_jax.runtime.files import from_json

NASTY = "<img src=x onerror=alert(1)>&amp;"
LABELS = ["ab", "cde", "x1", "Zz", NASTY]


def evaluate(folder: Path, words: Path, guesses: list[str], seed: int = 0) -> Path:
    """The workdir of an evaluation of five words, as launch/evaluate.py writes it."""
    scores = [0.91, 0.73, 0.52, 0.37, 0.14]
    confidences = [(c, (c,) * len(g)) for c, g in zip(scores, guesses, strict=True)]
    read = [SetResult(Benchmark("words", words, 5, None), LABELS, guesses, [True] * 5, confidences)]
    labels = {"available": 9, "examined": 9, "unlabelled": 1, "outside_charset": 2, "too_long": 3}
    results = {
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
        "seed": seed,
        "command": f"python launch/evaluate.py --x={NASTY}",
        "device": "1 x cpu",
        "seconds": {"train": 1.0, "total": 2.0},
    }
    found = from_json(Evaluation, results)
    report.write_results(folder, found, (x for r in read for x in r.lines()), ["ab", "cde"])
    metrics = [{"step": step, "loss": 9.0 - step} for step in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, encode) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    write_lmdb(root / "words", [Record(encode(i), w, "t") for i, w in enumerate(LABELS)])
    first = evaluate(root / "one", root / "words", ["ab", "cdx", "x1", "", "img"])
    return [first, evaluate(root / "two", root / "words", ["ab", "cde", "", "zz", NASTY])]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> str:
    out = write_page(runs, tmp_path_factory.mktemp("page") / "new" / "report.html")
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    return out.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page: str) -> None:
    assert not re.findall(r"https?:|(?<![:\w])//\w|<link|<iframe|@import|url\(", page)
    sources = re.findall(r'(?:src|href|srcset)="([^"]{1,12})', page)
    assert sources and all(s.startswith(("data:image", "#")) for s in sources)
    assert 'name="viewport"' in page and page.count("<script>") == 1


def test_every_heading_is_linked(page: str) -> None:
    links = re.findall(r'href="#([^"]+)"', page)
    assert len(links) >= 10 and all(f'<section id="{link}">' in page for link in links)


def numbers(value: Any) -> set[str]:
    """Every number of a JSON value, as a table may show it."""
    if isinstance(value, dict):
        return set().union(*map(numbers, value.values()))
    if isinstance(value, list):
        return set().union(*map(numbers, value)) if value else set()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {f"{value:.2f}", f"{value:g}", str(value)}
    return set()


def test_every_number_of_a_score_comes_from_its_files(page: str, runs) -> None:
    files = [json.loads((run / n).read_text()) for run in runs for n in FILES]
    known = set().union(*map(numbers, files)) | {"1", "0"}
    tables = re.findall(r"<figcaption>([^<]*)</figcaption>.*?<tbody>(.*?)</tbody>", page, re.DOTALL)
    checked = 0
    for title, body in tables:
        if title.startswith("First "):  # a comparison of two runs: checked on its own
            continue
        for cell in re.findall(r"<td>([^<]*)</td>", body):
            if re.fullmatch(r"[-\d. ±\[\],/]+", cell):
                for number in re.findall(r"-?\d+(?:\.\d+)?", cell):
                    assert number in known, (title, cell)
                    checked += 1
    assert checked > 80


FILES = ("results.json", "analysis.json")


def test_a_changed_result_changes_the_page(runs, tmp_path: Path) -> None:
    copy = tmp_path / "changed"
    copy.mkdir()
    for file in runs[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    results = json.loads((copy / "results.json").read_text())
    results["sets"][0]["word_accuracy"] = 12.34
    (copy / "results.json").write_text(json.dumps(results))
    assert "12.34 ±" in write_page([copy], tmp_path / "x.html").read_text()


def test_comparison_of_two_runs(page: str) -> None:
    assert "First one, second two" in page
    # Under the policy one reads ab, x1; two reads ab, cde, Zz and the nasty one.
    assert re.search(r"<td>words</td><td>5</td><td>1</td><td>3</td>", page)
    assert "+40.00" in page


def test_labels_cannot_become_markup(page: str) -> None:
    assert "<img src=x" not in page and "onerror=alert(1)>" not in page
    assert html.escape(NASTY) in page
    with_text = re.sub(r"<[^>]*>", "", page)
    assert "onerror" in html.unescape(with_text)


def test_sheets_show_words_with_confidence_and_what_was_wrong(page: str) -> None:
    assert 'class="wrong">cd<mark>x</mark></b> <span>73 %</span><br><span>is cde' in page
    assert 'class="right">ab</b> <span>91 %</span>' in page
    assert page.count('<img class="word"') == 10


def test_what_is_missing_is_said(page: str) -> None:
    assert "Left out: no decoder that attends in one, two." in page
    assert "no run on this page is a pretraining run" in page


def test_images_may_stay_out(runs, tmp_path: Path) -> None:
    page = write_page(runs, tmp_path / "x.html", crops=False).read_text()
    assert "<img" not in page and "not part of this page" in page and "73 %" in page


def test_sets_that_are_gone_cost_their_images_only(runs, tmp_path: Path) -> None:
    run = evaluate(tmp_path / "run", tmp_path / "gone", ["ab", "cdx", "x1", "", "img"])
    page = write_page([run], tmp_path / "x.html").read_text()
    assert "images of run, words: there is no LMDB at" in page and "is cde" in page


def test_runs_without_predictions_keep_their_scores(runs, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.json").write_bytes((runs[0] / "results.json").read_bytes())
    page = write_page([tmp_path / "old"], tmp_path / "x.html").read_text()
    assert "old: every set" in page and "Left out: no predictions.jsonl in old." in page


def test_a_folder_of_seeds_stands_for_its_runs(runs, tmp_path: Path) -> None:
    for seed, guesses in ((0, ["ab"] + ["?"] * 4), (1, ["ab", "cde", "x1"] + ["?"] * 2)):
        evaluate(tmp_path / "all" / f"seed_{seed}", tmp_path / "gone", guesses, seed)
    page = write_page([tmp_path / "all"], tmp_path / "x.html").read_text()
    assert "seed_0 (evaluation), seed_1 (evaluation)" in page
    # 20 % and 60 %: mean 40, sample deviation 20 * sqrt(2).
    assert "<td>0, 1</td><td>40.00 ± 28.28</td>" in page


def test_the_folder_of_a_quickstart_stands_for_its_runs(tmp_path: Path) -> None:
    for name in ("frozen_random_init", "frozen_pretrained"):
        evaluate(tmp_path / name, tmp_path / "words/test", ["ab"] + ["?"] * 4)
        (tmp_path / name / "config.json").write_text('{"protocol": "frozen"}')
    for name, config in (("pretrain", "{}"), ("finetuned_pretrained", '{"protocol": "finetune"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "results.json").write_text('{"frozen": {}, "finetuned": {}}')  # of compare.py
    found = open_runs([tmp_path])
    assert [run.name for run in found] == ["pretrain", "frozen_pretrained", "frozen_random_init"]
    assert [run.kind for run in found] == ["pretraining", "evaluation", "evaluation"]


def test_the_page_opens_with_pretrained_beside_random(tmp_path: Path) -> None:
    guesses = {"pretrained": ["ab", "cde", "x1", "?", "?"], "random_init": ["ab"] + ["?"] * 4}
    for initialisation, read in guesses.items():
        run = evaluate(tmp_path / initialisation, tmp_path / "gone", read)
        results = json.loads((run / "results.json").read_text())
        changed = json.dumps(results | {"initialisation": initialisation})
        (run / "results.json").write_text(changed)
    both = write_page([tmp_path], tmp_path / "both.html").read_text()
    opening = both[both.index("<h2>") : both.index("<h2>Scores")]
    assert opening.startswith("<h2>Pretrained beside random initialisation")
    assert "frozen, ctc, 3 labels" in opening and opening.count("<circle") == 2
    found = re.findall(r"<title>(\w+): ([\d.]+) % \(([\d.]+) to ([\d.]+)\)", opening)
    shown = {name: (float(value), float(low), float(high)) for name, value, low, high in found}
    assert shown["random_init"][0] == 20 and shown["pretrained"][0] == 60
    assert all(low <= value <= high for value, low, high in shown.values())

    alone = write_page([tmp_path / "pretrained"], tmp_path / "alone.html").read_text()
    assert "Left out: no protocol was run from both initialisations." in alone


def test_a_sheet_of_words_read_right_and_wrong(tmp_path: Path, runs: list[Path]) -> None:
    with Image.open(draw_words(open_runs(runs)[0], tmp_path / "out/sheet.png")) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    # Five words of 32 x 100 in one row, doubled: those read right first, captions in two colours.
    assert pixels.shape == (98, 6 * 224, 3)
    captions = pixels[68:] - np.array([0xD5, 0x5E, 0x00])
    wrong = np.flatnonzero((np.abs(captions).sum(-1) < 60).any(0))
    assert 2 * 224 < wrong.min() and wrong.max() < 5 * 224


def test_a_sheet_needs_scored_words_and_their_images(tmp_path: Path) -> None:
    run = evaluate(tmp_path / "run", tmp_path / "gone", ["ab", "cdx", "x1", "", "img"])
    with pytest.raises(ValueError, match="no image of .*run is to be had: images of run, words"):
        draw_words(open_runs([run])[0], tmp_path / "sheet.png")
    (run / "predictions.jsonl").unlink()
    with pytest.raises(ValueError, match="scored no words; give the workdir of an evaluation"):
        draw_words(open_runs([run])[0], tmp_path / "sheet.png")


@pytest.mark.parametrize("setting", ["config", "source"])
def test_seeds_of_another_setting_are_another_mean(setting: str, tmp_path: Path) -> None:
    for rate, guesses in ((1.0, ["ab"] + ["?"] * 4), (0.1, ["ab", "cde", "x1"] + ["?"] * 2)):
        for seed in (0, 1):
            run = evaluate(tmp_path / f"rate_{rate}/seed_{seed}", tmp_path / "gone", guesses, seed)
            results = json.loads((run / "results.json").read_text())
            if setting == "config":
                config = {"seed": seed, "seeds": [0, 1], "train.encoder_multiplier": rate}
                results["config"] = config
            else:
                results["train"]["source"] = [f"lmdb:{rate}"]
            (run / "results.json").write_text(json.dumps(results))
    page = write_page([tmp_path], tmp_path / "x.html").read_text()
    row = "<td>{}</td><td>pretrained</td><td>frozen</td><td>ctc</td><td>1</td><td>0, 1</td>"
    assert row.format("rate_1.0") + "<td>20.00 ± 0.00</td>" in page
    assert row.format("rate_0.1") + "<td>60.00 ± 0.00</td>" in page


def test_a_damaged_recogniser_costs_its_attention_only(runs, tmp_path: Path) -> None:
    run = evaluate(tmp_path / "run", tmp_path / "gone", ["ab", "cdx", "x1", "", "img"])
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"decoder": "transformer"}))
    (run / "recognizer/checkpoints").mkdir(parents=True)
    page = write_page([run], tmp_path / "x.html").read_text()
    assert re.search(r"Left out: run: [^<]*/run/recognizer/checkpoints holds no checkpoint", page)
    assert "is cde" in page


def test_attention_without_words_to_look_at() -> None:
    recognizer = SimpleNamespace(encoder=SimpleNamespace(image_size=(32, 100)))
    found = WordBank([], None, 5, crops=False).for_recognizers([recognizer])
    assert found == ({}, ["no words are known: give --words=SOURCE."])
    with pytest.raises(ValueError, match="nowhere"):
        WordBank([], "lmdb:nowhere", 5, crops=False).for_recognizers([recognizer])


def test_watched_measures_stand_beside_the_curves(runs, tmp_path: Path) -> None:
    (tmp_path / "watch").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "watch" / "metrics.jsonl").write_text('{"step": 1, "probe/word_accuracy": 0.5}\n')
    (run,) = open_runs([tmp_path])
    assert set(run.curves) == {"loss", "probe/word_accuracy"} and run.kind == "curves"


def test_what_is_no_run_is_refused(runs, tmp_path: Path) -> None:
    for folders, message in (
        ([], "at least one workdir"),
        ([tmp_path], "is no workdir"),
        ([runs[0], runs[0]], "named twice"),
    ):
        with pytest.raises(ValueError, match=message):
            open_runs(folders)
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "b" / "x").mkdir(parents=True)
    for folder in ("a/x", "b/x"):
        (tmp_path / folder / "config.json").write_text("{}")
    assert [r.name for r in open_runs([tmp_path / "a/x", tmp_path / "b/x"])] == ["a/x", "b/x"]


def test_marked_characters_and_the_choice_of_words() -> None:
    assert marked("cat", "cut") == "c<mark>u</mark>t"
    assert marked("cat", "ct") == "ct" and marked("cat", "") == "–"
    assert marked("ab", "ba") == "<mark>b</mark>a"  # of two shortest alignments
    assert marked("a", "a<") == "a<mark>&lt;</mark>"
    lines = [{"confidence": i / 10} for i in range(10)]
    assert [line["confidence"] for line in spread(lines, 4)] == [0.9, 0.6, 0.3, 0.0]
    assert len(spread(lines, 20)) == 10
