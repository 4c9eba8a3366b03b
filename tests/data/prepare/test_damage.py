"""What is wrong with a download is refused or named; what a converter was stopped in, goes on."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from rcmstr_jax.data.folder import FolderSource
from rcmstr_jax.data.lmdb import LmdbSource, write_lmdb
from rcmstr_jax.data.prepare import convert, crops
from rcmstr_jax.data.prepare.convert import parse_split, prepare
from rcmstr_jax.data.prepare.forms import FORMS
from rcmstr_jax.data.records import BadRecord, Record
from rcmstr_jax.data.sources import open_source
from tests.data.test_mutations import ANYTHING, IMAGES, USABLE

Encode = Callable[..., bytes]


def words_of(path: Path) -> list[tuple[str | None, bytes]]:
    source = open_source(f"lmdb:{path}")
    return [(source[i].text, source[i].image) for i in range(len(source))]


def skipped(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]


@pytest.fixture
def crops_folder(tmp_path: Path, encode: Encode) -> Path:
    """Forty crops with labels.tsv."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02d}.png").write_bytes(encode(i))
    lines = "".join(f"{i:02d}.png\tword{i}\n" for i in range(40))
    (folder / "labels.tsv").write_text(lines)
    return folder


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims, and whose data hold, this many grey pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    deflate = zlib.compressobj(9)
    rows = b"".join(deflate.compress(bytes(width + 1)) for _ in range(height)) + deflate.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def damaged_tree(root: Path, encode: Encode) -> tuple[Path, dict[str, str]]:
    """A folder with one crop that is whole; and file or label -> the reason why it is skipped."""
    folder, outside = root / "crops", root / "private"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.png").write_bytes(encode(7))
    (outside / "pickle").write_bytes(pickle.dumps(Trap(root / "mark")))
    files = {
        "empty.png": b"",
        "cut.jpg": encode(1, "JPEG")[:300],
        "cut.png": encode(1)[:300],
        "bomb.png": bomb(10_000, 10_000),
        "pickle.png": pickle.dumps(Trap(root / "mark")),
        "page.jpg": b"<svg onload='alert(1)'></svg>" * 9,
    }
    reasons = ["empty image", "truncated JPEG", "truncated PNG", "image too large"]
    reasons += ["not an image", "not an image"]
    for name, data in files.items():
        (folder / name).write_bytes(data)
    expected = dict(zip(files, reasons, strict=True))
    (folder / "large.png").touch()
    os.truncate(folder / "large.png", 1 << 40)  # a sparse terabyte
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "linked").symlink_to(outside)
    expected |= {
        "large.png": "file too large",
        "pipe.png": "missing image file",
        "link.png": "image outside the source",
        "linked/secret.png": "image outside the source",
        "../private/secret.png": "image outside the source",
        str(outside / "secret.png"): "image outside the source",
        "gone.png": "missing image file",
    }
    (folder / "good.png").write_bytes(encode(3))
    lines = [{"filename": file, "text": "word"} for file in ("good.png", *expected)]
    for text, reason in (
        ("x" * 2**20, "line is no JSON object with filename and text"),  # cut at 64 kB
        ("x" * 1001, "label too long"),
        ("a\0b", "control characters in the label"),
        ("a\nb", "control characters in the label"),
        ("\ud800", "label is not UTF-8"),
        (" ", "empty label"),
    ):
        lines.append({"filename": "good.png", "text": text})
        expected[f"label {len(lines)}"] = reason
    (folder / "annotation.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
        + "[" * 60_000 + "\n" + '{"filename": "a\\u0000b.png", "text": "w"}\n'
    )  # fmt: skip
    expected["deep"] = "line is no JSON object with filename and text"
    expected["NUL in a path"] = "missing image file"
    return folder, expected


def test_twenty_kinds_of_damage_are_named_one_by_one(tmp_path: Path, encode: Encode) -> None:
    folder, expected = damaged_tree(tmp_path, encode)
    began = time.monotonic()
    counts = prepare("union14m", folder, tmp_path / "out")
    assert time.monotonic() - began < 20
    assert counts.written == 1 and counts.listed == len(expected) + 1 > 20
    assert Counter(expected.values()) == Counter(counts.reasons())
    found = skipped(tmp_path / "out")
    assert [fault["reason"] for fault in found] == list(expected.values())
    assert all(len(json.dumps(fault)) < 2000 for fault in found)
    assert {f["source"] for f in found} >= {"bomb.png", "link.png", "../private/secret.png"}
    assert words_of(tmp_path / "out") == [("word", encode(3))]
    assert not (tmp_path / "mark").exists()


def test_the_same_folder_is_a_source_that_names_the_same_damage(tmp_path: Path, encode) -> None:
    folder, _ = damaged_tree(tmp_path, encode)
    (folder / "again").symlink_to(folder)  # a circle
    source = FolderSource(folder, labels=False)
    assert source.files.count("good.png") == 1 and not any("again" in f for f in source.files)
    reasons = {}
    for index, file in enumerate(source.files):
        try:
            source[index]
        except BadRecord as error:
            reasons[file] = error.reason
    assert reasons == {"large.png": "file too large", "pipe.png": "not a regular file"}


@pytest.mark.parametrize("form", [f for f in FORMS if FORMS[f].annotations])
def test_a_pickle_under_the_name_of_an_annotation_is_not_loaded(
    form: str, tmp_path: Path, encode: Encode
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "trap").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(ValueError, match=r"is no (XML|MATLAB) file|not UTF-8|no usable word"):
        prepare(form, tmp_path / "in", tmp_path / "out", annotation="trap")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_annotations_that_would_grow_without_end(tmp_path: Path) -> None:
    (tmp_path / "test.xml").write_text(
        '<?xml version="1.0"?><!DOCTYPE t [<!ENTITY a "aaaaaaaaaa">'
        + "".join(
            f'<!ENTITY {y} "{f"&{x};" * 10}">' for x, y in zip("abcdefgh", "bcdefghi", strict=True)
        )
        + "]><tagset><image><imageName>&i;</imageName></image></tagset>"
    )
    with pytest.raises(ValueError, match="no XML file .*amplification"):
        list(FORMS["svt"].read(tmp_path / "test.xml"))
    (tmp_path / "leak.xml").write_text(
        '<!DOCTYPE t [<!ENTITY f SYSTEM "file:///etc/passwd">]><tagset>&f;</tagset>'
    )
    with pytest.raises(ValueError, match="no XML file"):
        list(FORMS["svt"].read(tmp_path / "leak.xml"))
    # A quarter of a gigabyte of zeros, compressed to a quarter of a megabyte.
    deflate = zlib.compressobj(9)
    packed = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(1 << 8)) + deflate.flush()
    savemat(tmp_path / "gt.mat", {"x": np.zeros(2)})
    header = (tmp_path / "gt.mat").read_bytes()[:128]
    tag = (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    (tmp_path / "gt.mat").write_bytes(header + tag + packed)
    with pytest.raises(ValueError, match="no MATLAB file .*fifty times its size"):
        list(FORMS["synthtext"].read(tmp_path / "gt.mat"))


def test_mjsynth_has_broken_images(tmp_path: Path, encode: Encode) -> None:
    """Those that others list as broken: without bytes, or cut off."""
    root = tmp_path / "mj"
    broken = ["./2069/4/192_whittier_86389.jpg", "./1881/4/225_Marbling_46673.jpg"]
    good = "./2425/1/115_Lube_45484.jpg"
    images = (b"", encode(1, "JPEG")[:400], encode(2, "JPEG"))
    for file, data in zip((*broken, good), images, strict=True):
        (root / file).parent.mkdir(parents=True)
        (root / file).write_bytes(data)
    lines = "".join(
        f"{file} 1\n" for file in (*broken, good, "./2425/1/115.jpg", "./1/1/1_a_2.jpg")
    )
    (root / "annotation_train.txt").write_text(lines)
    counts = prepare("mjsynth", root, tmp_path / "out")
    assert counts.reasons() == {
        "empty image": 1, "line does not begin with NUMBER_WORD_NUMBER.jpg": 1,
        "missing image file": 1, "truncated JPEG": 1,
    }  # fmt: skip
    assert [fault["source"] for fault in skipped(tmp_path / "out")][:2] == broken
    assert words_of(tmp_path / "out")[0][0] == "Lube"


def test_words_of_synthtext_are_seen_from_the_front(tmp_path: Path, encode: Encode) -> None:
    """A flat picture that is put into another at an angle comes back."""
    flat = cv2.imdecode(np.frombuffer(encode(5, size=(60, 200)), np.uint8), cv2.IMREAD_COLOR)
    corners = np.array([(50, 40), (250, 70), (240, 150), (60, 110)], np.float32)
    sides = np.array([(0, 0), (200, 0), (200, 60), (0, 60)], np.float32)
    scene = cv2.warpPerspective(flat, cv2.getPerspectiveTransform(sides, corners), (300, 200))
    word = crops._cut_quad(scene, tuple(map(tuple, corners.tolist())))
    found = cv2.imdecode(np.frombuffer(word, np.uint8), cv2.IMREAD_COLOR)
    assert found.shape == (76, 193, 3)
    found = cv2.resize(found, (200, 60)).astype(int)
    assert np.abs(found - flat)[3:-3, 3:-3].mean() < 4
    plain = cv2.resize(scene[40:150, 50:250], (200, 60)).astype(int)
    assert np.abs(plain - flat)[3:-3, 3:-3].mean() > 20
    for quad, reason in (
        ([(0, 0), (1e9, 0), (1e9, 1e9), (0, 1e9)], "image too large"),
        ([(0, 0), (9, 9), (20, 20), (3, 3)], "corners without an area"),
        ([(400, 0), (500, 0), (500, 20), (400, 20)], "corners outside the image"),
        ([(0, 0), (float("nan"), 0), (9, 9), (0, 9)], "corners are no numbers"),
    ):
        with pytest.raises(BadRecord) as error:
            crops._cut_quad(scene, tuple(quad))  # type: ignore[arg-type]
        assert error.value.reason == reason


def test_what_a_folder_does_not_label_is_named(crops_folder: Path, tmp_path: Path) -> None:
    with (crops_folder / "labels.tsv").open("a") as file:
        file.write("00.png\tagain\nno tab\nnowhere.png\tword\n")
    (crops_folder / "99.png").write_bytes((crops_folder / "00.png").read_bytes())
    counts = prepare("folder", crops_folder, tmp_path / "out")
    assert counts.written == 40 and counts.reasons() == {
        "image is listed twice": 1, "missing image file": 1, "no label": 1,
        "no tab; write FILE<tab>WORD": 1,
    }  # fmt: skip
    (crops_folder / "labels.tsv").unlink()
    assert prepare("folder", crops_folder, tmp_path / "bare").written == 41
    assert not LmdbSource(tmp_path / "bare").labelled


def test_parts_together_are_the_whole(crops_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(convert, "BLOCK", 7)
    prepare("folder", crops_folder, tmp_path / "whole")
    for i in (2, 1, 3):
        counts = prepare("folder", crops_folder, tmp_path / "parts", part=f"{i}/3")
        assert counts.listed == counts.written == {1: 14, 2: 14, 3: 12}[i]
    assert sorted(words_of(tmp_path / "parts")) == sorted(words_of(tmp_path / "whole"))
    assert len(words_of(tmp_path / "parts")) == 40
    with pytest.raises(ValueError, match="--part=9/9: there are no words left for it"):
        prepare("folder", crops_folder, tmp_path / "more", part="9/9")
    for part in ("0/3", "4/3", "1/", "a/b", "1/0"):
        with pytest.raises(ValueError, match=f"--part={part}: give I/N"):
            prepare("folder", crops_folder, tmp_path / "more", part=part)


def test_a_split_is_the_same_every_time_and_loses_nothing(
    crops_folder: Path, tmp_path: Path
) -> None:
    def split(name: str, **options) -> dict[str, list[tuple[str | None, bytes]]]:
        prepare("folder", crops_folder, tmp_path / name, split="0.7,0.3", **options)
        return {part: words_of(tmp_path / name / part) for part in ("train", "validation")}

    once = split("once")
    assert once == split("again") and once != split("other", seed=1)
    prepare("folder", crops_folder, tmp_path / "whole")
    assert sorted(once["train"] + once["validation"]) == sorted(words_of(tmp_path / "whole"))
    assert 4 <= len(once["validation"]) <= 20
    note = json.loads((tmp_path / "once" / "prepare.json").read_text())
    assert note["sets"] == {name: len(words) for name, words in once.items()}
    assert parse_split("0.8,0.1,0.1") == (0.8, 0.1, 0.1)
    for wrong in ("0.9", "0.5,0.6", "1.5,-0.5", "a,b", "0.4,0.2,0.2,0.2"):
        with pytest.raises(ValueError, match=f"--split={wrong}: give two shares"):
            parse_split(wrong)


def test_words_of_benchmarks_are_left_out_and_named(crops_folder: Path, tmp_path: Path) -> None:
    def printed(number: int) -> bytes:
        image = np.full((40, 120, 3), 200, np.uint8)
        cv2.putText(image, f"w{997 * number}", (5, 30), cv2.FONT_HERSHEY_DUPLEX, 0.9, (0, 0, 90), 2)
        return bytes(cv2.imencode(".png", image)[1])

    def again(data: bytes, quality: int, size: tuple[int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).resize(size).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    for i in range(40):
        (crops_folder / f"{i:02d}.png").write_bytes(printed(i))
    leaks = [again(printed(4), 60, (120, 40)), again(printed(9), 90, (70, 30)), printed(100)]
    write_lmdb(tmp_path / "bench" / "SVT", (Record(data, "w", "") for data in leaks))
    counts = prepare("folder", crops_folder, tmp_path / "out", exclude_like=str(tmp_path / "bench"))
    assert counts.written == 38
    found = {fault["source"]: fault["detail"] for fault in skipped(tmp_path / "out")}
    assert set(found) == {"04.png", "09.png"}
    assert found["04.png"].startswith("SVT_3 image-000000001, ")
    with pytest.raises(ValueError, match="--exclude_like=.*nowhere"):
        prepare("folder", crops_folder, tmp_path / "o", exclude_like=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("count", [620, pytest.param(10_000, marks=pytest.mark.long)])
def test_mutated_images_are_written_or_named(count: int, tmp_path: Path) -> None:
    """None is lost: what is not in the set stands in the list, with the reason it must have."""
    rng = np.random.default_rng(1)
    folder, expected = tmp_path / "in", {}
    folder.mkdir()
    for i, kind in enumerate(rng.permutation(np.resize(list(IMAGES), count))):
        make, expected[f"{i:05d}.png"] = IMAGES[kind]
        (folder / f"{i:05d}.png").write_bytes(make(rng))
    (folder / "labels.tsv").write_text("".join(f"{file}\t{file}\n" for file in expected))
    counts = prepare("folder", folder, tmp_path / "out")
    written = {text for text, _ in words_of(tmp_path / "out")}
    named = {fault["source"]: fault["reason"] for fault in skipped(tmp_path / "out")}
    assert written | set(named) == set(expected) and not written & set(named)
    assert counts.listed == count == len(written) + len(named)
    for file, reason in expected.items():
        assert reason == ANYTHING or named.get(file, USABLE) == reason, file


def test_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "words.zip").write_bytes(b"PK\3\4" + bytes(99))
    with pytest.raises(ValueError, match="words.zip is a file: unpack it and give the folder"):
        prepare("folder", tmp_path / "words.zip", tmp_path / "out")


def test_a_killed_conversion_goes_on(tmp_path: Path, encode: Encode, repository: Path) -> None:
    """SIGKILL in the middle; another number of workers ends with what comes out of one piece."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i}.png").write_bytes(encode(i))
    (folder / "bad.png").write_bytes(b"no image")
    names = random.Random(0).choices([*(f"{i}.png" for i in range(20)), "bad.png"], k=5_000)
    lines = (json.dumps({"filename": f, "text": f"w{n}"}) + "\n" for n, f in enumerate(names))
    (folder / "annotation.jsonl").write_text("".join(lines))
    out = tmp_path / "out"
    command = [
        sys.executable, str(repository / "launch/prepare.py"), "--from=union14m",
        f"--source={folder}", f"--out={out}", "--workers=2",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    note = tmp_path / ".out.partial" / "progress.json"
    deadline = time.monotonic() + 60
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not out.exists()
    before = json.loads(note.read_text())
    assert 0 < before["counts"]["listed"] < 5_000
    with pytest.raises(ValueError, match="interrupted run with another filter"):
        prepare("union14m", folder, out, rule="alphanumeric")
    begun: list[int] = []
    counts = prepare("union14m", folder, out, progress=begun.append)
    assert begun[0] >= before["counts"]["listed"]
    bad = [n for n, file in enumerate(names) if file == "bad.png"]
    assert (counts.listed, counts.written) == (5_000, 5_000 - len(bad))
    assert [text for text, _ in words_of(out)] == [
        f"w{n}" for n, file in enumerate(names) if file != "bad.png"
    ]
    assert [fault["key"] for fault in skipped(out)] == [f"line {n + 1}" for n in bad]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops", "out"]
