"""Hostile files: each gets a refusal with a reason, within bounded memory and time."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import resource
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.interop.files import WeightFileError, read_arrays
from rcmstr_jax.recognition.reading import find_images, read_images
from rcmstr_jax.recognition.recognizer import Recognizer, read_file
from rcmstr_jax.recognition.saved import read_saved
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.serving.app import make_app
from tests.interop.test_bad_input import Code
from tests.serving.conftest import form, serving

pytest.importorskip("starlette", reason="the extra serve is not installed")

SECONDS, MEGABYTES = 5.0, 200


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = (head, *more, chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(kind: str, frames: int = 1) -> bytes:
    images = [Image.new("RGB", (40, 20), (60 * i, 90, 10)) for i in range(frames)]
    buffer = io.BytesIO()
    more: dict[str, Any] = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(buffer, kind, **more)
    return buffer.getvalue()


def jpeg2000_with_a_lie() -> bytes:
    """10 pixels by its container, 900 million by its code stream."""
    data = bytearray(saved("JPEG2000"))
    start = data.find(b"\xff\x4f\xff\x51")
    for place in (start + 8, start + 24):
        data[place : place + 8] = struct.pack(">II", 30_000, 30_000)
    return bytes(data)


HOSTILE = {
    "100-megapixel": (png(10_000, 10_000, zlib.compress(b"\0" * 1000)), "image too large"),
    "zlib bomb": (png(10, 10, zlib.compress(bytes(2**28), 9)), "more image data than pixels"),
    "bmp of 900 megapixels": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 30_000, 30_000, 1, 24,
                            0, 0, 0, 0, 0, 0), "image too large"),
    "jpeg 2000": (jpeg2000_with_a_lie(), "damaged or unsupported image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            "not an image"),
    "animated gif": (saved("GIF", 3), "several images in one"),
    "animated png": (saved("PNG", 3), "several images in one"),
    "animated webp": (saved("WEBP", 3), "several images in one"),
    "several pages": (saved("TIFF", 3), "several images in one"),
    "page in a gif": (b"GIF89a/*" + b"<script>alert(1)</script>" * 5, "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) run\n", "image"),
    "pickle": (pickle.dumps(Code(Path("executed"))), "not an image"),
    "truncated jpeg": (saved("JPEG")[:300], "truncated JPEG"),
    "truncated png": (saved("PNG")[:60], "truncated PNG"),
    "truncated gif": (saved("GIF")[:20], "image"),
    "empty": (b"", "empty image"),
}  # fmt: skip


def test_each_is_refused_with_a_reason(batcher, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(batcher, "compile", lambda: None)  # nothing is read
    monkeypatch.chdir(tmp_path)

    async def run() -> dict[str, Any]:
        async with serving(make_app(batcher)) as call:
            return {name: await call("/read", form((name, HOSTILE[name][0]))) for name in HOSTILE}

    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    answers = asyncio.run(run())
    for name, answer in answers.items():
        (word,) = answer.json["words"]
        assert answer.status == 422 and HOSTILE[name][1] in word["error"]["value"], (name, word)
    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * MEGABYTES
    assert not list(tmp_path.iterdir())


def test_files_of_two_kinds_are_images_alone(tiny: Recognizer) -> None:
    """What follows an image is neither opened nor run."""
    assert tiny(saved("PNG") + b"PK\3\4 an archive") == tiny(saved("PNG"))
    assert tiny(saved("JPEG") + b"<script>") == tiny(saved("JPEG"))


def test_links_pipes_and_strange_names(tiny: Recognizer, tmp_path, monkeypatch) -> None:
    (tmp_path / "secret.png").write_bytes(saved("PNG"))
    folder = tmp_path / "crops"
    folder.mkdir()
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop").symlink_to(folder)
    (folder / "broken.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    os.truncate(os.open(folder / "huge.png", os.O_CREAT | os.O_WRONLY), 2**30)
    (folder / "a\nb\x1b[31m.png").write_bytes(saved("PNG"))
    names, skipped = find_images([str(folder)])
    assert [Path(name).name for name in names] == ["a\nb\x1b[31m.png", "huge.png"]
    assert skipped == 3  # the linked folder is not even entered
    answers = list(read_images(tiny, names))
    assert answers[0].word is not None and "file too large" in answers[1].error
    with pytest.raises(ValueError, match="no regular file"):
        read_file(folder / "pipe.png")
    with pytest.raises(ValueError, match="null byte"):
        tiny("a\x00b.png")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_weights_are_never_unpickled(tmp_path) -> None:
    """Whatever a file is called, and however it is found."""
    code = pickle.dumps(Code(tmp_path / "executed"))
    for name in ("a.npz", "a.safetensors", "a.pth", "a.pkl"):
        (tmp_path / name).write_bytes(code)
        with pytest.raises(WeightFileError, match=name):
            read_arrays(tmp_path / name)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(code)
    (folder / "config.json").write_bytes(code)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_saved(folder)
    np.savez(tmp_path / "b.npz", a=np.array([Code(tmp_path / "executed")], dtype=object))
    with pytest.raises(WeightFileError, match="never loaded"):
        read_arrays(tmp_path / "b.npz")
    assert not (tmp_path / "executed").exists()
