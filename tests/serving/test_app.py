"""The server's answers: readings, refusals with a remedy, many requests in common batches."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.serving import app as application
from rcmstr_jax.serving.app import make_app
from rcmstr_jax.serving.batching import Batcher
from rcmstr_jax.serving.limits import Limits, Refused, clean_name
from tests.recognition.toy_recognizer import NOISE, toy_recognizer
from tests.serving.conftest import form, serving

pytest.importorskip("starlette", reason="the extra serve is not installed")

FILES = [
    (f"{i}.png", cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    for i, image in enumerate(NOISE)
]


def ask(app: Any, *calls: tuple[Any, ...], **headers: Any) -> list[Any]:
    """The answers to calls made one after the other."""

    async def run() -> list[Any]:
        async with serving(app) as call:
            return [await call(*arguments, **headers) for arguments in calls]

    return asyncio.run(run())


def test_images_are_read_as_the_recogniser_reads_them(batcher: Batcher, tiny: Recognizer) -> None:
    known = tiny([data for _, data in FILES])
    assert len({word.text for word in known}) > 1
    broken = ("no\x00tes\n.png", b"not an image")
    one, several, health = ask(
        make_app(batcher), ("/read", form(FILES[0])), ("/read", form(*FILES, broken)), ("/health",)
    )
    assert one.status == several.status == 200
    words = several.json["words"]
    assert [word["text"] for word in words[:-1]] == [word.text for word in known]
    assert words[0]["confidence"] == round(known[0].confidence, 4)
    assert [c for c, _ in words[0]["characters"]] == list(known[0].text)
    assert (
        one.json["words"][0]["text"] == known[0].text and one.json["words"][0]["image"] == "0.png"
    )
    assert words[-1]["error"]["value"].startswith("not an image")
    assert "PNG, JPEG" in words[-1]["error"]["remedy"] and words[-1]["image"].isprintable()
    said = health.json
    assert said["status"] == "ready" and said["images"] == 1 + len(FILES)
    assert said["batches"] == 2 and said["waiting"] == 0 and said["decoder"] == "linear"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "field", "remedy"),
    [
        ("/read", form(("a", b"not an image")), {}, 422, None, "send one whole PNG"),
        ("/read", form(), {}, 422, "image", "send 1 to 3 files in form fields called image"),
        ("/read", form(("a", b""), field="file"), {}, 422, "image", "send 1 to 3 files"),
        ("/read", form(*[("a", b"")] * 4), {}, 413, "image", "send 1 to 3 files"),
        ("/read", form(*[("a", b"")] * 6), {}, 400, "request", "POST /read"),
        ("/read", form(*FILES), {}, 413, "Content-Length", "at most 50000 bytes"),
        ("/read", form(("a", bytes(60_000))), {}, 413, "Content-Length", "at most 50000 bytes"),
        ("/read", form(("a", bytes(60_000))), {"stated": False}, 413, "body", "at most 50000"),
        ("/read", form(("a", b"\x89PNG" + bytes(40_000))), {}, 422, None, "send one whole PNG"),
        ("/read", b"{}", {"content_type": "application/json"}, 415, "Content-Type", "curl -F"),
        ("/read", b"--nothing", {}, 400, "request", "POST /read"),
        ("/read", None, {}, 405, "request", "POST /read"),
        ("/../etc/passwd", None, {}, 404, "request", "GET /health"),
    ],
)  # fmt: skip
def test_what_is_refused_and_how(
    path, body, headers, status, field, remedy, batcher: Batcher, monkeypatch
) -> None:
    monkeypatch.setattr(batcher, "compile", lambda: None)  # nothing is read
    limits = Limits(image_bytes=30_000, body_bytes=50_000, images=3)
    (answer,) = ask(make_app(batcher, limits), (path, body), **headers)
    assert answer.status == status, answer.body
    error = answer.json["error"] if field else answer.json["words"][0]["error"]
    assert (
        error["field"] == (field or "image") and remedy in error["remedy"] and error["value"] != ""
    )


def test_a_thousand_concurrent_requests_share_batches(tiny: Recognizer) -> None:
    """None is lost or mixed up; while one batch is computed, the next ones fill."""
    batcher, texts = Batcher(tiny, sizes=(8,)), [word.text for word in tiny(NOISE)]

    async def run() -> list[Any]:
        async with serving(make_app(batcher)) as call:
            bodies = [form(file) for file in FILES]
            calls = (call("/read", bodies[i % len(bodies)]) for i in range(1000))
            return await asyncio.gather(*calls)

    answers = asyncio.run(run())
    assert [a.status for a in answers] == [200] * 1000
    found = [a.json["words"][0]["text"] for a in answers]
    assert found == [texts[i % len(texts)] for i in range(1000)]
    assert batcher.images == 1000 and batcher.batches <= 500


def test_too_many_waiting_images_are_refused_and_the_others_read(tiny: Recognizer) -> None:
    batcher = Batcher(tiny, sizes=(8,), waiting=2)
    (answer,) = ask(make_app(batcher), ("/read", form(*FILES[:4])))
    assert answer.status == 503 and answer.headers["retry-after"] == "1"
    assert "at most 2 images may wait" in answer.json["error"]["remedy"]


def test_a_slow_request_ends(batcher: Batcher, monkeypatch) -> None:
    monkeypatch.setattr(batcher, "compile", lambda: None)

    async def run() -> Any:
        app = make_app(batcher, Limits(seconds=0.05))
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        scope = {"type": "http", "method": "POST", "path": "/read", "headers": headers}
        await app(scope | {"query_string": b"", "root_path": ""}, receive, send)
        return sent[0]["status"]

    assert asyncio.run(run()) == 408


def test_a_failing_batch_fails_its_requests_alone(batcher: Batcher, monkeypatch) -> None:
    read = batcher._read

    def fail_once(batch: np.ndarray) -> Any:
        monkeypatch.setattr(batcher, "_read", read)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batcher, "compile", lambda: setattr(batcher, "_read", fail_once))

    async def run() -> list[int]:
        task = asyncio.create_task(batcher.run())
        batcher.compile()
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.read(NOISE[0])
        found = await batcher.read(NOISE[0])
        task.cancel()
        return [len(found.word.text)]

    assert asyncio.run(run()) and batcher.images == 1


def test_attention_is_given_where_the_decoder_has_it() -> None:
    batcher = Batcher(toy_recognizer("plain_attention", scale=3.0), sizes=(2,))
    body, plain = form(*FILES[:2], attention=True), form(*FILES[:2])
    answers = ask(make_app(batcher), ("/read", body), ("/read", plain))
    for word, without in zip(*(a.json["words"] for a in answers), strict=True):
        weights = np.array(word["attention"])
        assert weights.shape == (len(word["text"]), 32) and "attention" not in without
        np.testing.assert_allclose(weights.sum(-1), 1.0, atol=0.01)


def test_the_page_loads_nothing_from_elsewhere(batcher: Batcher, monkeypatch) -> None:
    monkeypatch.setattr(batcher, "compile", lambda: None)
    answers = ask(make_app(batcher), *((path,) for path in application.PAGES))
    assert [a.status for a in answers] == [200] * 3
    page, style, script = (a.body.decode() for a in answers)
    assert answers[0].headers["content-security-policy"].startswith("default-src 'self'")
    assert set(re.findall(r'(?:href|src)="([^"]+)"', page)) == {"data:,", "/page.css", "/page.js"}
    assert "http" not in style and "innerHTML" not in script
    assert set(re.findall(r'find\("(\w+)"\)', script)) <= set(re.findall(r'id="(\w+)"', page))


def test_names_are_shown_without_control_characters() -> None:
    assert clean_name("a\x00b\r\n\x1b[31m.png") == "a\ufffdb\ufffd\ufffd\ufffd[31m.png"
    assert len(clean_name("x" * 10_000)) == 200 and clean_name(None) == "image"
    error = Refused(422, "image", "x", "do y")
    assert error.as_dict() == {"field": "image", "value": "x", "remedy": "do y"}


def test_without_the_extra_the_remedy_is_named(batcher: Batcher, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ConfigError, match=r"starlette.*pip install 'rcmstr-jax\[serve\]'"):
        make_app(batcher)


def test_the_page_s_files_are_there() -> None:
    folder = Path(application.__file__).parent
    assert all((folder / name).is_file() for name in application.PAGES.values())
