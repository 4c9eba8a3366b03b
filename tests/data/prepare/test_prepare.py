"""Tiny downloads in every public form become the sets that were downloaded, or an error."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from rcmstr_jax.data.lmdb import LmdbSource, write_lmdb
from rcmstr_jax.data.prepare.convert import describe, prepare
from rcmstr_jax.data.prepare.forms import FORMS, Item, read_icdar
from rcmstr_jax.data.records import Record
from tests.processes import Processes

Encode = Callable[..., bytes]


def put(folder: Path, names: list[str], encode: Encode) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(number, "JPEG" if path.suffix == ".jpg" else "PNG"))


def icdar(folder: Path, encode: Encode) -> None:
    put(folder, ["word_1.png", "word_2.png", "word_3.png"], encode)
    lines = ['word_1.png, "Genaxis Theatre"', r'word_2.png, "say \"A\\B\", no"', 'word_3.png, "é"']
    (folder / "gt.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    (folder / "coords.txt").write_text("word_1.png,1,2,3,4,5,6,7,8\n")


def icdar2003(folder: Path, encode: Encode) -> None:
    put(folder, ["word/1/1.jpg", "word/1/2.jpg"], encode)
    (folder / "word.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?><imagelist>'
        '<image file="word/1/1.jpg" tag="Rock &amp; Roll" /><image file="word/1/2.jpg" tag="P" />'
        "</imagelist>"
    )


def iiit5k(folder: Path, encode: Encode) -> None:
    put(folder, ["test/1002_1.png", "test/1002_2.png"], encode)
    for split, names in (("test", ["1002_1", "1002_2"]), ("train", ["9_1"])):
        words = ["PRIVATE", "P"][: len(names)]
        table = np.zeros(
            (1, len(names)), [(k, "O") for k in ("ImgName", "GroundTruth", "smallLexi")]
        )
        for i, (name, word) in enumerate(zip(names, words, strict=True)):
            lexicon = np.array(["A", "B"], dtype=object)
            table[0, i] = (f"{split}/{name}.png", word, lexicon)
        savemat(folder / f"{split}data.mat", {f"{split}data": table})


def svt(folder: Path, encode: Encode) -> None:
    put(folder, ["img/14_03.jpg"], encode)  # 120 wide, 40 high
    (folder / "test.xml").write_text(
        "<tagset><image><imageName>img/14_03.jpg</imageName><lex>A,B</lex>"
        '<Resolution x="120" y="40"/><taggedRectangles>'
        '<taggedRectangle height="20" width="50" x="10" y="5"><tag>LIVING</tag></taggedRectangle>'
        '<taggedRectangle height="90" width="90" x="100" y="-4"><tag>ROOM</tag></taggedRectangle>'
        "</taggedRectangles></image></tagset>"
    )


def cute80(folder: Path, encode: Encode) -> None:
    put(folder, ["timage/001.jpg", "timage/002.jpg"], encode)
    (folder / "test_label.txt").write_text(
        "timage/001.jpg RONALDO 1 RONALDO\ntimage/002.jpg 7 1 7\n"
    )


def union14m(folder: Path, encode: Encode) -> None:
    put(folder, ["imgs/0.jpg", "imgs/1.jpg"], encode)
    # Once below the annotation's folder, once below the folder that holds it.
    files = ["imgs/0.jpg", f"{folder.name}/imgs/1.jpg"]
    words = ["naïve", "x y"]
    lines = [{"filename": f, "text": w} for f, w in zip(files, words, strict=True)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "annotation.jsonl").write_text(text, encoding="utf-8")


def folder(folder: Path, encode: Encode) -> None:
    put(folder, ["a.png", "deep/b.jpg"], encode)
    (folder / "labels.csv").write_text('file,word\na.png,"one, two"\ndeep/b.jpg,drei\n')


def mjsynth(folder: Path, encode: Encode) -> None:
    """As mjsynth.tar.gz unpacks; ten images in each folder of two levels."""
    root = folder / "mnt/ramdisk/max/90kDICT32px"
    words = {"./1/1/1_Lube_45484.jpg": 45484, "./1/1/2_d'you_9.jpg": 9}
    put(root, list(words), encode)
    for name, lines in (("", words), ("_train", words), ("_val", {}), ("_test", {})):
        text = "".join(f"{file} {number}\n" for file, number in lines.items())
        (root / f"annotation{name}.txt").write_text(text)
    (root / "lexicon.txt").write_text("aahed\naahing\n")


def synthtext(folder: Path, encode: Encode, corners: list[np.ndarray] | None = None) -> None:
    """As SynthText.zip unpacks; a picture of two words, one of one (whose corners are (2, 4))."""
    put(folder, ["8/ballet_106_0.jpg", "8/ballet_106_1.jpg"], encode)  # 120 wide, 40 high
    level = np.array([[10, 60, 60, 10], [5, 5, 25, 25]], np.float32)
    slanted = np.array([[70, 110, 108, 66], [4, 12, 34, 22]], np.float32)
    table: dict[str, np.ndarray] = {
        name: np.empty((1, 2), object) for name in ("imnames", "wordBB", "charBB", "txt")
    }
    for i, (boxes, lines) in enumerate(
        [(np.stack([level, slanted], axis=2), ["Lines:\nI  "]), (level, ["  lost "])]
    ):
        table["imnames"][0, i] = np.array([f"8/ballet_106_{i}.jpg"])
        table["wordBB"][0, i] = boxes if corners is None else corners[i]
        table["charBB"][0, i] = np.zeros((2, 4, 7), np.float32)
        table["txt"][0, i] = np.array(lines)
    savemat(folder / "gt.mat", table)


def lmdb(folder: Path, encode: Encode) -> None:
    for name in ("a", "b"):
        write_lmdb(folder / name, [Record(encode(ord(name)), f"word {name}", "")])


MAKE = {
    f.__name__: f
    for f in (
        icdar, icdar2003, iiit5k, svt, cute80, union14m, folder, mjsynth, synthtext, lmdb
    )
}  # fmt: skip
WORDS = {
    "icdar": ["Genaxis Theatre", 'say "A\\B", no', "é"],
    "icdar2003": ["Rock & Roll", "P"],
    "iiit5k": ["PRIVATE", "P"],
    "svt": ["LIVING", "ROOM"],
    "cute80": ["RONALDO", "7"],
    "union14m": ["naïve", "x y"],
    "folder": ["one, two", "drei"],
    "mjsynth": ["Lube", "d'you"],
    "synthtext": ["Lines:", "I", "lost"],
    "lmdb": ["word a", "word b"],
}


@pytest.fixture
def download(tmp_path: Path, encode: Encode) -> Callable[[str], Path]:
    def make(form: str) -> Path:
        folder = tmp_path / f"{form}_download"
        folder.mkdir()
        MAKE[form](folder, encode)
        return folder

    return make


def test_every_form_is_tested() -> None:
    assert set(MAKE) == set(FORMS) == set(WORDS)


@pytest.mark.parametrize("form", FORMS)
def test_words_and_images_arrive(form: str, download, tmp_path: Path) -> None:
    source = download(form)
    counts = prepare(form, source, tmp_path / "out" / "set")
    assert (counts.listed, counts.written, counts.faults) == (len(WORDS[form]),) * 2 + ([],)
    made = LmdbSource(tmp_path / "out" / "set")
    assert [made[i].text for i in range(len(made))] == WORDS[form]
    if form == "svt":
        whole = np.asarray(Image.open(source / "img/14_03.jpg"))
        words = [np.asarray(Image.open(io.BytesIO(made[i].image))) for i in range(2)]
        assert np.array_equal(words[0], whole[5:25, 10:60])
        assert np.array_equal(words[1], whole[0:40, 100:120])  # clipped to the photograph
    elif form == "synthtext":
        whole = np.asarray(Image.open(source / "8/ballet_106_0.jpg")).astype(int)
        word = np.asarray(Image.open(io.BytesIO(made[0].image)))
        assert np.abs(word - whole[5:25, 10:60]).mean() < 3  # cut at its level corners, a JPEG
        # Between the middles of opposite sides of the slanted one.
        assert Image.open(io.BytesIO(made[1].image)).size == (42, 20)
    elif form == "lmdb":
        sources = [LmdbSource(source / name) for name in "ab"]
        assert [made[i].image for i in range(2)] == [lmdb[0].image for lmdb in sources]
    else:
        files = sorted(f for f in source.rglob("*") if f.suffix in (".jpg", ".png"))
        assert [made[i].image for i in range(len(made))] == [f.read_bytes() for f in files]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["set"]


def test_faults_are_counted_and_left_out(download, tmp_path: Path, encode: Encode) -> None:
    source = download("icdar")
    (source / "word_2.png").write_bytes(encode(1)[:60])
    with (source / "gt.txt").open("a", encoding="utf-8") as file:
        file.write('word_9.png, "gone"\nno comma\nword_1.png, ""\n')
    counts = prepare("icdar", source, tmp_path / "SVT")
    assert (counts.listed, counts.written) == (6, 2)
    reasons = counts.reasons()
    assert reasons["missing image file"] == reasons["empty label"] == 1
    assert reasons['line is not FILE, "WORD"'] == 1 and sum(reasons.values()) == 4
    note = json.loads((tmp_path / "SVT" / "prepare.json").read_text())
    assert (note["written"], note["accepted"], note["accepted_sizes"]) == (2, False, [647])
    assert {f["key"] for f in note["faults"]} == {"line 2", "line 5", "line 6", "line 7"}
    assert describe(counts, "mine")["accepted"] is None


def test_filters_make_the_published_subsets(download, tmp_path: Path) -> None:
    source = download("union14m")
    lines = [{"filename": "imgs/0.jpg", "text": w} for w in ("ab", "abc", "a-b", "été", "A1")]
    (source / "annotation.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for rule, left in (("all", 5), ("alphanumeric", 3), ("alphanumeric3", 1)):
        counts = prepare("union14m", source, tmp_path / rule, rule=rule, expect=left)
        assert (counts.written, counts.filtered) == (left, 5 - left)


def test_another_split_is_named_by_its_annotation(download, tmp_path: Path) -> None:
    source = download("iiit5k")
    with pytest.raises(ValueError, match=r"no usable word among 1 .*missing image file"):
        prepare("iiit5k", source, tmp_path / "out", annotation="traindata.mat")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("svt", {"expect": 3}, "--expect=3, but 2 of 2 words remain"),
        ("svt", {"annotation": "train.xml"}, "--annotation=train.xml: there is no"),
        ("svt", {"rule": "some"}, "--filter=some"),
        ("svt", {"kind": "csv"}, "--format=csv"),
        ("cute80", {"rule": "alphanumeric", "annotation": "timage/001.jpg"}, "not UTF-8"),
    ],
)
def test_errors_leave_nothing_behind(form, options, message, download, tmp_path: Path) -> None:
    source = download(form)
    with pytest.raises(ValueError, match=message):
        prepare(form, source, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == [source]


def test_annotations_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"<tagset><image>")
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    with pytest.raises(ValueError, match="no XML file"):
        list(FORMS["svt"].read(tmp_path / "broken"))
    with pytest.raises(ValueError, match="no MATLAB file"):
        list(FORMS["iiit5k"].read(tmp_path / "broken"))
    with pytest.raises(ValueError, match=r"its variables are \['x'\]"):
        list(FORMS["iiit5k"].read(tmp_path / "other.mat"))
    with pytest.raises(ValueError, match="holds no annotation"):
        FORMS["svt"].find_annotation(tmp_path)
    for name in ("a_gt.txt", "b_GT.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="choose one by --annotation"):
        FORMS["icdar"].find_annotation(tmp_path)


def test_icdar_line_keeps_commas_and_quotes_of_the_word(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text('a.png, "1,000"\nb.png,"\\"x\\""\n')
    found = list(read_icdar(tmp_path / "gt.txt"))
    assert found == [Item("a.png", "1,000", "line 1"), Item("b.png", '"x"', "line 2")]


def test_command_writes_tfds_too(
    download, tmp_path: Path, repository: Path, processes: Processes
) -> None:
    source = download("cute80")
    arguments = ["--from=cute80", f"--source={source}", f"--out={tmp_path / 'CUTE80'}"]
    launcher = repository / "launch/prepare.py"
    done = processes.script(launcher, *arguments, "--format=tfds")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 words" in done.stdout and "NOT a published size (288)" in done.stdout
    from rcmstr_jax.data.tfds import TfdsSource

    made = TfdsSource("word_crops", data_dir=tmp_path / "CUTE80")
    assert [made[i].text for i in range(len(made))] == WORDS["cute80"]
    again = processes.script(launcher, *arguments)
    assert again.returncode == 2 and again.stderr.startswith("error: --out="), again.stderr
