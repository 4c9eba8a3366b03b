"""Words on disk: the same in every format and with every number of workers, or not there at all."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rcmstr_jax.data.lmdb import LmdbSource
from rcmstr_jax.data.records import Record
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.data.synthetic import RenderOptions, SyntheticSource
from rcmstr_jax.data.synthetic.export import export_words, render_many
from rcmstr_jax.data.synthetic.sheet import contact_sheet, write_sheet
from tests.processes import Processes


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(seed=1, length=1000, options=RenderOptions(num_fonts=4))


def test_lmdb_holds_the_words_and_says_how_they_were_made(
    tmp_path: Path, source: SyntheticSource
) -> None:
    seen: list[int] = []
    assert export_words(source, str(tmp_path / "w"), num=30, progress=seen.append) == 30
    written = LmdbSource(tmp_path / "w")
    assert len(written) == 30 and seen == [30]
    assert [(r.image, r.text) for r in map(written.__getitem__, range(30))] == [
        (source[i].image, source[i].text) for i in range(30)
    ]
    note = json.loads((tmp_path / "w" / "render.json").read_text())
    assert note["seed"] == 1 and note["num"] == 30 and len(note["faces"]) == 4
    assert RenderOptions(**note["options"]) == source.options
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_tfds_holds_the_words_in_order(tmp_path: Path, source: SyntheticSource) -> None:
    assert export_words(source, str(tmp_path / "w"), num=12, form="tfds") == 12
    assert list(tmp_path.rglob("*.array_record*"))
    builder = tfds.builder("synthetic_words", data_dir=str(tmp_path / "w"))
    words = builder.as_data_source("train")
    assert len(words) == 12
    for index in range(12):
        assert words[index]["text"].decode() == source[index].text
        size = Image.open(io.BytesIO(source[index].image)).size
        assert words[index]["image"].shape == (size[1], size[0], 3)


@pytest.mark.slow
def test_workers_change_nothing(source: SyntheticSource) -> None:
    assert list(render_many(source, range(300), workers=2)) == [
        source[index] for index in range(300)
    ]


def test_parts_one_after_the_other_are_the_whole(tmp_path: Path, source: SyntheticSource) -> None:
    out = str(tmp_path / "w")
    counts = [export_words(source, out, num=20, part=f"{i}/3") for i in (3, 1, 2)]
    assert counts == [7, 6, 7]
    words = open_source(f"lmdb:{out}")
    assert [words[i].image for i in range(20)] == [source[i].image for i in range(20)]
    with pytest.raises(ValueError, match="--part=4/3: give I/N"):
        export_words(source, out, num=20, part="4/3")
    with pytest.raises(ValueError, match="--part=1/30 with --num=20"):
        export_words(source, out, num=20, part="1/30")


def test_existing_data_is_replaced_only_on_request(tmp_path: Path, source: SyntheticSource) -> None:
    out = str(tmp_path / "w")
    export_words(source, out, num=3)
    with pytest.raises(ValueError, match="--out=.* exists; add --overwrite"):
        export_words(source, out, num=3)
    assert export_words(source, out, num=5, overwrite=True) == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match="other than rendered words"):
        export_words(source, str(tmp_path / "mine"), num=3, overwrite=True)
    with pytest.raises(ValueError, match="is a file; name a folder"):
        export_words(source, str(tmp_path / "mine" / "thesis.txt"), num=3)


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, source: SyntheticSource) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    for form in ("lmdb", "tfds"):
        with pytest.raises(KeyboardInterrupt):
            export_words(source, str(tmp_path / "w"), num=300, form=form, progress=interrupt)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num": 0}, "--num=0: give at least 1"),
        ({"num": 2000}, "--num=2000 exceeds the source's length 1000"),
        ({"num": 5, "form": "zip"}, "--format=zip is unknown; choose one of lmdb, tfds"),
        ({"num": 5, "workers": -1}, "--workers=-1"),
    ],
)
def test_bad_requests_name_flag_value_and_remedy(
    tmp_path: Path, source: SyntheticSource, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_words(source, str(tmp_path / "w"), **change)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet_shows_crops_side_by_side(tmp_path: Path, source: SyntheticSource) -> None:
    write_sheet((source[index] for index in range(20)), tmp_path / "deep" / "sheet.png")
    sheet = Image.open(tmp_path / "deep" / "sheet.png")
    assert sheet.width == 1400 and sheet.height >= 48
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["sheet.png"]
    assert contact_sheet([Record(source[0].image, None, "x")]).height == 65
    with pytest.raises(ValueError, match="no records for a contact sheet"):
        contact_sheet([])


def test_command_line_renders_words_and_prints_their_rate(
    tmp_path: Path, repository: Path, processes: Processes
) -> None:
    out, sheet = tmp_path / "w", tmp_path / "s.png"
    done = processes.script(
        repository / "launch/render_words.py", "--num=20", f"--out={out}", f"--sheet={sheet}",
        "--difficulty=easy", "--seed=9", "--alphabet=abcdefghijklmnopqrstuvwxyz",
        "--max_length=5", "--num_fonts=3", "--split=train", "--holdout=0.2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 faces" in done.stdout and "words/s" in done.stdout
    words = [record.text for record in map(LmdbSource(out).__getitem__, range(20))]
    assert all(word and word.islower() and len(word) <= 5 for word in words)
    assert Image.open(sheet).width == 1400


def test_command_line_names_what_is_wrong(
    tmp_path: Path, repository: Path, processes: Processes
) -> None:
    arguments = f"--out={tmp_path / 'w'}", f"--fonts={tmp_path}", "--num=5"
    done = processes.script(repository / "launch/render_words.py", *arguments)
    assert done.returncode != 0
    assert "no usable font among 0 files" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
