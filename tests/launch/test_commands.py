"""Commands as a user types them: a recogniser is scored, reads photographs, stands in a report."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest

from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.runtime.provenance import DataPosition
from tests.recognition.toy_recognizer import toy_recognizer
from tests.recognition.toy_words import WORDS, picture, words_lmdb

IMPORTED = ["rcmstr_jax.evaluation.runs", "rcmstr_jax.reporting.page"]


class Done(NamedTuple):
    """How a command ended."""

    code: int | None
    out: str
    err: str


def start(script: str, arguments: tuple[str, ...], folder: Path) -> None:
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(folder / name, flags), stream.fileno())
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


@pytest.fixture
def launch(repository: Path, tmp_path: Path) -> Callable[..., Done]:
    """Runs one of launch/ in a process of its own, made by one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)

    def run(script: str, *arguments: str) -> Done:
        path = str(repository / "launch" / script)
        process = context.Process(target=start, args=(path, arguments, tmp_path))
        process.start()
        process.join()
        return Done(process.exitcode, *((tmp_path / n).read_text() for n in ("out", "err")))

    return run


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory) -> Path:
    """The workdir of a tiny recogniser that has learnt nothing."""
    folder = tmp_path_factory.mktemp("recogniser")
    toy_recognizer().save(folder, DataPosition("none", 0, 1))
    return folder


def test_whatever_lies_below_a_folder_is_scored_and_reported(
    launch, recognizer: Path, tmp_path: Path
) -> None:
    root = tmp_path / "sets"
    write_lmdb(root / "good", [Record(picture(text), text, "toy") for text in WORDS[:4]])
    words_lmdb(root / "corrupt", WORDS[:5])
    (root / "empty").mkdir()
    with lmdb.open(str(root / "empty"), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"num-samples", b"0")
    config = f"--config={Path(common.__file__).with_name('score.py')}"
    asked = (config, f"--pretrained={recognizer}", "--config.eval_batch_size=4")
    done = launch("evaluate.py", *asked, f"--config.benchmarks={root}")
    assert done.code == 0, done.err
    scores = recognizer / "scores/sets"  # where no --workdir is given
    results = json.loads((scores / "results.json").read_text())
    found = {entry["name"]: entry for entry in results["sets"]}
    assert {name: entry["num_words"] for name, entry in found.items()} == {
        "corrupt": 5,
        "empty": 0,
        "good": 4,
    }
    assert found["corrupt"]["num_unreadable"] == 1 and "is empty" in found["empty"]["fault"]
    assert all(f"\n{name}" in done.out for name in found)  # each has its row
    faults = json.loads((scores / "faults.json").read_text())
    assert faults["by_reason"] == {"not an image": 1, "set not scored": 1}

    page = tmp_path / "report.html"
    done = launch("report.py", str(scores), f"--out={page}", "--nocrops")
    assert done.code == 0, done.err
    assert f"written: {page}" in done.out
    assert all(f"<td>{name}" in page.read_text() for name in found)


def test_a_folder_of_photographs_is_read(launch, recognizer: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for text in WORDS[:3]:
        (photographs / f"{text}.png").write_bytes(picture(text))
    (photographs / "broken.png").write_bytes(picture("gnu")[:100])
    (photographs / "notes.txt").write_text("no image\n")
    checkpoint = (f"--checkpoint={recognizer}", "--batch_size=2")
    done = launch("recognize.py", *checkpoint, str(photographs))
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    names = [Path(line.split("\t")[0]).name for line in lines]
    assert names == sorted(f"{name}.png" for name in [*WORDS[:3], "broken"])
    broken = lines.pop(names.index("broken.png"))
    assert broken.endswith("\t(not read: truncated PNG)")
    assert "3 images read" in done.err and "images per second" in done.err
    assert "1 unreadable, 1 other files skipped" in done.err
    alone = launch("recognize.py", *checkpoint, str(photographs / "cat.png"))
    assert alone.code == 0 and alone.out.splitlines() == [line for line in lines if "cat" in line]


def test_a_recogniser_is_given_away_and_reads_elsewhere(
    launch, recognizer: Path, tmp_path: Path
) -> None:
    words_lmdb(tmp_path / "sets/words", WORDS[:5])
    score = (f"--config={Path(common.__file__).with_name('score.py')}",)
    sets = (f"--config.benchmarks={tmp_path / 'sets'}", "--config.eval_batch_size=4")
    scored, again, given = (str(tmp_path / name) for name in ("scored", "again", "given"))
    done = launch("evaluate.py", *score, *sets, f"--pretrained={recognizer}", f"--workdir={scored}")
    assert done.code == 0, done.err
    asked = (f"--from={recognizer}", "--kind=recognizer", f"--to={given}")
    check = f"--check=lmdb:{tmp_path / 'sets'}"
    done = launch("convert_weights.py", *asked, check)
    assert done.code == 2 and "--scores" in done.err and not Path(given).exists()
    done = launch("convert_weights.py", *asked, check, f"--scores={scored}")
    assert done.code == 0, done.err
    assert "of 4 images of lmdb:sets" in done.out  # the broken one is left out
    assert {path.name for path in Path(given).iterdir()} == {
        *("README.md", "config.json", "weights.safetensors"),
    }
    done = launch("evaluate.py", *score, *sets, f"--pretrained={given}", f"--workdir={again}")
    assert done.code == 0, done.err
    lines = ((Path(folder) / "predictions.jsonl").read_text() for folder in (scored, again))
    texts, others = ([json.loads(x)["prediction"] for x in part.splitlines()] for part in lines)
    assert texts == others
    (tmp_path / "cat.png").write_bytes(picture("cat"))
    done = launch("recognize.py", f"--checkpoint={given}", str(tmp_path / "cat.png"))
    assert done.code == 0 and "1 images read" in done.err, done.err


@pytest.mark.parametrize(
    "command",
    [
        "pretrain.py --config=mini --workdir=gs://bucket/run",
        "evaluate.py --config=frozen_ctc --workdir=runs/new --pretrained=s3://bucket/run",
        "evaluate.py --config=score --pretrained=compact --config.benchmarks=gs://bucket/words",
        "recognize.py gs://bucket/word.png",
        "prepare.py --from=svt --source=svt1 --out=gs://bucket/SVT_647",
        "render_words.py --num=10 --out=gs://bucket/words",
    ],
)
def test_buckets_are_refused_by_every_launcher(launch, command: str) -> None:
    done = launch(*command.split())
    assert done.code == 2
    (line,) = done.err.splitlines()
    place = command.split("=")[-1].split()[-1]
    assert f"{place}: {place[:2]}:// is not supported" in line and "give that folder" in line
