"""Two thousand mutated records through the pipeline: nothing crashes, each is counted and named."""

from __future__ import annotations

import io
import json
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import LmdbSource
from rcmstr_jax.data.pipeline import eval_batches, train_batches
from rcmstr_jax.metrics.words import score_words

MUTATED, MISSING_AT_THE_END = 2000, 40
SIZE = (32, 100)
BATCH = 64
USABLE = ""
ANYTHING = "usable, or refused for whatever reason"


def saved(image: Image.Image, fmt: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def picture(rng: np.random.Generator, mode: str = "RGB", size=(72, 24)) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (4, 8, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def jpeg(rng, mode="RGB", **options) -> bytes:
    return saved(picture(rng, mode), "JPEG", **options)


def png(rng, mode="RGB", **options) -> bytes:
    return saved(picture(rng, mode), "PNG", **options)


def cut(rng, data: bytes, least: int) -> bytes:
    return data[: int(rng.integers(least, len(data) - 1))]


def claimed(data: bytes, place: int, fmt: str, *values: int) -> bytes:
    """The image with other numbers in its header."""
    return data[:place] + struct.pack(fmt, *values) + data[place + struct.calcsize(fmt) :]


def jpeg_of_size(rng, width: int, height: int) -> bytes:
    data = jpeg(rng)
    return claimed(data, data.index(b"\xff\xc0") + 5, ">HH", height, width)


def png_of_size(rng, width: int, height: int) -> bytes:
    return claimed(png(rng), 16, ">II", width, height)


def flipped(rng, data: bytes, first: int, count: int) -> bytes:
    damaged = bytearray(data)
    for place in rng.integers(first, len(data), count):
        damaged[place] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def noise(rng) -> bytes:
    return b"\x00" + rng.bytes(300)


def sixteen_bits(rng) -> bytes:
    return saved(Image.fromarray(rng.integers(0, 2**16, (24, 72)).astype(np.uint16)), "PNG")


def animated(rng, fmt: str) -> bytes:
    frames = [picture(rng) for _ in range(3)]
    return saved(frames[0], fmt, save_all=True, append_images=frames[1:])


Make = Callable[[np.random.Generator], bytes]
# What becomes of the image -> (how it is made, the reason that the report must give).
IMAGES: dict[str, tuple[Make, str]] = {
    "whole": (jpeg, USABLE),
    "no bytes": (lambda rng: b"", "empty image"),
    "nothing but zeros": (lambda rng: bytes(int(rng.integers(1, 500))), "not an image"),
    "noise": (noise, "not an image"),
    "a web page": (lambda rng: b"<!doctype html><title>404</title>" * 9, "not an image"),
    "a document": (lambda rng: b"%PDF-1.4\n" + rng.bytes(200), "not an image"),
    "truncated JPEG": (lambda rng: cut(rng, jpeg(rng), 2), "truncated JPEG"),
    "truncated PNG": (lambda rng: cut(rng, png(rng), 9), "truncated PNG"),
    "JPEG header overwritten": (lambda rng: b"\xff\xd8" + noise(rng), "damaged JPEG"),
    "PNG pixels overwritten": (
        lambda rng: claimed(data := png(rng), data.index(b"IDAT") + 12, ">I", 0xDEADBEEF),
        "damaged PNG",
    ),
    "huge JPEG": (lambda rng: jpeg_of_size(rng, 65000, 65000), "image too large"),
    "huge PNG": (lambda rng: png_of_size(rng, 2**31 - 1, 2**31 - 1), "image too large"),
    "huge GIF": (
        lambda rng: claimed(saved(picture(rng), "GIF"), 6, "<HH", 65535, 65535),
        "image too large",
    ),
    "JPEG of no height": (lambda rng: jpeg_of_size(rng, 72, 0), "image without pixels"),
    "PNG of no width": (lambda rng: png_of_size(rng, 0, 24), "image without pixels"),
    "a format of Pillow alone": (
        lambda rng: saved(picture(rng), "QOI"),
        "damaged or unsupported image",
    ),
    "bits flipped in a JPEG": (lambda rng: flipped(rng, jpeg(rng), 2, 5), ANYTHING),
    "bits flipped in a PNG": (lambda rng: flipped(rng, png(rng), 8, 5), ANYTHING),
    "bits flipped in a GIF": (lambda rng: flipped(rng, saved(picture(rng), "GIF"), 6, 5), ANYTHING),
    "CMYK": (lambda rng: jpeg(rng, "CMYK"), USABLE),
    "grey": (lambda rng: jpeg(rng, "L"), USABLE),
    "progressive": (lambda rng: jpeg(rng, progressive=True), USABLE),
    "16 bits": (sixteen_bits, USABLE),
    "one bit": (lambda rng: png(rng, "1"), USABLE),
    "palette": (lambda rng: png(rng, "P"), USABLE),
    "transparent": (lambda rng: png(rng, "RGBA"), USABLE),
    "animated GIF": (lambda rng: animated(rng, "GIF"), "several images in one"),
    "animated PNG": (lambda rng: animated(rng, "PNG"), "several images in one"),
    "one pixel": (lambda rng: saved(picture(rng, size=(1, 1)), "JPEG"), USABLE),
    "one column": (lambda rng: saved(picture(rng, size=(1, 900)), "PNG"), USABLE),
    "one row": (lambda rng: saved(picture(rng, size=(900, 1)), "PNG"), USABLE),
}
# What becomes of the keys beside a whole image -> reason.
KEYS: dict[str, str] = {
    "missing key": "missing image key",
    "missing label": "no label",
    "label not UTF-8": "label is not UTF-8",
}
KINDS = (*IMAGES, *KEYS)
LABEL_FAULTS = ("no label", "label is not UTF-8")


@pytest.fixture(scope="module")
def mutated(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """An LMDB of mutated records; and `{image key: expected reason}`."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("mutated") / "words"
    pairs: dict[bytes, bytes] = {b"num-samples": b"%d" % (MUTATED + MISSING_AT_THE_END)}
    expected: dict[str, str] = {}
    for i, kind in enumerate(rng.permutation(np.resize(KINDS, MUTATED)), start=1):
        key = f"image-{i:09d}"
        make, expected[key] = IMAGES.get(kind) or (jpeg, KEYS[kind])
        if kind != "missing key":
            pairs[key.encode()] = make(rng)
        if kind != "missing label":
            pairs[b"label-%09d" % i] = b"\xc3(" if kind == "label not UTF-8" else b"w%d" % i
    for i in range(MUTATED + 1, MUTATED + MISSING_AT_THE_END + 1):
        expected[f"image-{i:09d}"] = "missing image key"
    with lmdb.open(str(path), map_size=1 << 26, lock=False, sync=False) as env:
        with env.begin(write=True) as txn:
            for name, value in pairs.items():
                txn.put(name, value)
    return path, expected


def reasons(log: FaultLog) -> dict[str, str]:
    return {fault.key: fault.reason for fault in log.faults()}


def certain(by_key: dict[str, str], expected: dict[str, str]) -> dict[str, str]:
    """The entries whose outcome does not depend on where a bit was flipped."""
    return {key: reason for key, reason in by_key.items() if expected[key] != ANYTHING}


def damaged(expected: dict[str, str]) -> dict[str, str]:
    return {k: reason for k, reason in expected.items() if reason not in (USABLE, ANYTHING)}


def test_evaluation_counts_each_as_an_error(mutated, tmp_path) -> None:
    path, expected = mutated
    source = LmdbSource(path)
    log = FaultLog(tmp_path / "faults.json")
    with eval_batches(
        source, batch_size=BATCH, image_size=SIZE, require_text=True, faults=log
    ) as batches:
        whole = list(batches)
    real = np.concatenate([batch["weight"] for batch in whole]) == 1
    valid = np.concatenate([batch["valid"] for batch in whole])[real]
    # Every record has its weight, in order; those that cannot be used are the reported ones.
    assert real.sum() == len(source) == len(expected)
    found = reasons(log)
    assert [key in found for key in expected] == [not usable for usable in valid]
    assert certain(found, expected) == damaged(expected)
    assert valid.any() and all(batch["image"].shape == (BATCH, *SIZE, 3) for batch in whole)
    # So that one who reads all that can be read is right in that share of the records.
    texts = [text for batch in whole for text in batch["text"]][: len(source)]
    score = score_words([text or "" for text in texts], texts, readable=valid.tolist())
    assert (score.num_words, score.correct) == (len(expected), valid.sum())
    kinds = Counter(expected.values())
    assert score.unlabelled == sum(kinds[k] for k in LABEL_FAULTS) + MISSING_AT_THE_END

    # The report on the disk: one entry per record, and counts by kind.
    report = json.loads((tmp_path / "faults.json").read_text())
    assert report["total"] == len(found) == len(report["records"])
    assert report["by_reason"] == dict(Counter(found.values()))
    assert set(damaged(expected).values()) <= set(report["by_reason"])
    print(f"{len(found)} of {len(expected)} refused: {report['by_reason']}")


def test_training_goes_on_without_them(mutated) -> None:
    path, expected = mutated
    source = LmdbSource(path)
    log = FaultLog()
    numbers: set[int] = set()
    with train_batches(
        source, batch_size=BATCH, image_size=SIZE, seed=1, with_text=True, faults=log
    ) as batches:
        for _ in range(-(-len(source) // BATCH)):
            batch = next(batches)
            assert batch["image"].shape == (BATCH, *SIZE, 3)
            numbers.update(int(text[1:]) for text in batch["text"] if text is not None)
    found = reasons(log)
    bare = {key for key, reason in expected.items() if reason == "no label"}
    assert bare and certain(found, expected) == {
        key: reason for key, reason in damaged(expected).items() if key not in bare
    }
    # One epoch: every record is either learnt from or reported; a bare one has no number.
    assert numbers == {int(key[6:]) for key in expected if key not in found and key not in bare}


def test_pretraining_asks_for_no_labels(mutated) -> None:
    path, expected = mutated
    source = LmdbSource(path, labels=False)
    log = FaultLog()
    cache = DecodedCache.build(source, SIZE, faults=log)
    found = reasons(log)
    assert len(cache) == MUTATED + MISSING_AT_THE_END
    assert int((~cache.valid).sum()) == len(found)
    labels = {key for key, reason in expected.items() if reason in LABEL_FAULTS}
    assert labels and not labels & set(found)
    assert certain(found, expected) == {
        key: reason for key, reason in damaged(expected).items() if key not in labels
    }
