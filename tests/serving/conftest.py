"""A server of a tiny recogniser, called without a network."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from rcmstr_jax.serving.batching import Batcher
from tests.recognition.toy_recognizer import toy_recognizer

BOUNDARY = "-boundary-"


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Call = Callable[..., Awaitable[Answer]]


def form(*files: tuple[str, bytes], field: str = "image", attention: bool = False) -> bytes:
    """The body of a multipart request."""
    parts = [(f'name="{field}"; filename="{name}"', data) for name, data in files]
    parts += [('name="attention"', b"1")] if attention else []
    lines = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    ]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Call]:
    """Starts the application and gives a function that calls it."""
    signals: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    ready, ended = asyncio.Event(), asyncio.Event()

    async def said(message: Any) -> None:
        assert message["type"].endswith(".complete"), message
        (ready if "startup" in message["type"] else ended).set()

    life = asyncio.create_task(app({"type": "lifespan", "state": {}}, signals.get, said))
    await signals.put({"type": "lifespan.startup"})
    await ready.wait()

    async def call(
        path: str,
        body: bytes | None = None,
        *,
        method: str = "",
        stated: bool = True,
        **headers: str,
    ) -> Answer:
        method = method or ("GET" if body is None else "POST")
        fields = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        fields |= {"content-length": str(len(body))} if body is not None and stated else {}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        pieces = [(body or b"")[i : i + 65536] for i in range(0, len(body or b""), 65536)] or [b""]
        messages = iter(
            {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)}
            for i, piece in enumerate(pieces)
        )
        sent: list[Any] = []

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in fields.items()],
            "client": ("test", 1),
            "server": ("test", 80),
            "scheme": "http",
            "http_version": "1.1",
        }
        await app(scope, receive, send)
        found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:]))

    try:
        yield call
    finally:
        await signals.put({"type": "lifespan.shutdown"})
        await ended.wait()
        await life


@pytest.fixture(scope="package")
def tiny() -> Any:
    """Tells images apart, knows nothing."""
    return dataclasses.replace(toy_recognizer("linear", scale=30.0), batch_size=8)


@pytest.fixture
def batcher(tiny) -> Batcher:
    return Batcher(tiny, sizes=(8,))
