"""The web application: a page, `POST /read`, `GET /health`; errors are JSON with a remedy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcmstr_jax.data.decode import MAX_PIXELS, prepare_process
from rcmstr_jax.data.records import BadRecord
from rcmstr_jax.recognition.reading import Answer
from rcmstr_jax.recognition.recognizer import load_image
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.serving.batching import Batcher
from rcmstr_jax.serving.limits import Limits, Refused, clean_name

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

FIELD, ATTENTION = "image", "attention"
LIMITS = Limits()
PAGES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(batcher: Batcher, limits: Limits = LIMITS, name: str = "recogniser") -> Starlette:
    """The application around a recogniser; it compiles when it starts.

    Args:
      batcher: that reads.
      limits: of requests.
      name: of the recogniser, for the page.

    Raises:
      ConfigError: the extra `serve` is not installed.
    """
    try:
        import python_multipart  # noqa: F401  (which Starlette needs for forms)
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise ConfigError(
            f"the server needs {error.name}: pip install 'rcmstr-jax[serve]'"
        ) from error

    decoders = ThreadPoolExecutor(os.cpu_count(), "decoder")
    bodies = asyncio.Semaphore(limits.bodies)
    started = time.monotonic()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        prepare_process()
        await asyncio.get_running_loop().run_in_executor(None, batcher.compile)
        reading = asyncio.create_task(batcher.run())
        yield
        reading.cancel()

    def decode(file: Any) -> np.ndarray:
        if (file.size or 0) > limits.image_bytes:
            raise BadRecord("image too large", f"{file.size} bytes, {limits.image_bytes} allowed")
        file.file.seek(0)
        return load_image(file.file.read(), batcher.recognizer.encoder.image_size)

    async def receive(request: Request) -> tuple[list[tuple[str, Any]], bool]:
        """Names with decoded images or errors; and whether attention is asked for."""
        loop = asyncio.get_running_loop()
        async with request.form(max_files=limits.images + 1, max_fields=4) as form:
            files = form.getlist(FIELD)
            if not 0 < len(files) <= limits.images or any(isinstance(f, str) for f in files):
                remedy = f"send 1 to {limits.images} files in form fields called {FIELD}"
                raise Refused(413 if len(files) > limits.images else 422, FIELD, len(files), remedy)
            jobs = [loop.run_in_executor(decoders, decode, file) for file in files]
            images = await asyncio.gather(*jobs, return_exceptions=True)
            names = [clean_name(getattr(file, "filename", None)) for file in files]
            return list(zip(names, images, strict=True)), form.get(ATTENTION) == "1"

    async def one(name: str, image: Any, attention: bool) -> dict[str, Any]:
        if isinstance(image, BadRecord):
            remedy = f"send one whole PNG, JPEG, WebP or BMP of at most {MAX_PIXELS} pixels"
            return {"image": name, "error": Refused(422, FIELD, str(image), remedy).as_dict()}
        if isinstance(image, BaseException):
            raise image
        read = await batcher.read(image)
        found = Answer(name, read.word).as_dict()
        if attention and read.attention is not None:
            found[ATTENTION] = np.round(read.attention.astype(float), 4).tolist()
        return found

    async def read(request: Request) -> Response:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            value = clean_name(request.headers.get("content-type", "none"))
            remedy = f"send a form with files: curl -F {FIELD}=@word.png"
            raise Refused(415, "Content-Type", value, remedy)
        bound_body(request, limits.body_bytes)
        try:
            async with bodies, asyncio.timeout(limits.seconds):
                images, attention = await receive(request)
        except TimeoutError:
            remedy = "send the images faster, or fewer at a time"
            raise Refused(408, "seconds", limits.seconds, remedy) from None
        words = await asyncio.gather(*(one(n, image, attention) for n, image in images))
        status = 200 if any("text" in word for word in words) else 422
        return JSONResponse({"words": words}, status)

    async def health(request: Request) -> Response:
        recognizer = batcher.recognizer
        return JSONResponse(
            {
                "status": "ready",
                "recognizer": name,
                "decoder": recognizer.head.name,
                "characters": recognizer.head.charset.characters,
                "image_size": recognizer.encoder.image_size,
                "batch_sizes": batcher.sizes,
                "limits": vars(limits) | {"pixels": MAX_PIXELS},
                "waiting": batcher.waiting,
                "images": batcher.images,
                "batches": batcher.batches,
                "seconds": round(time.monotonic() - started, 1),
            }
        )

    async def page(request: Request) -> Response:
        file = Path(__file__).with_name(PAGES[request.url.path])
        return Response(file.read_bytes(), media_type=_TYPES[file.suffix], headers=_HEADERS)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        # What is left of a body is not read: the connection closes.
        headers |= {"Connection": "close"} if error.status in (408, 413) else {}
        return JSONResponse({"error": error.as_dict()}, error.status, headers)

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        value = f"{request.method} {clean_name(request.url.path)}: {error.detail}"
        remedy = f"POST /read with files in fields called {FIELD}, GET /health, GET / in a browser"
        body = {"error": {"field": "request", "value": value, "remedy": remedy}}
        return JSONResponse(body, error.status_code, error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        body = {"field": "server", "value": type(error).__name__, "remedy": "see the server's log"}
        return JSONResponse({"error": body}, 500)

    routes = [Route(path, page) for path in PAGES]
    routes += [Route("/read", read, methods=["POST"]), Route("/health", health)]
    handlers: Mapping[Any, Any] = {Refused: refused, HTTPException: other, Exception: failed}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


def bound_body(request: Request, limit: int) -> None:
    """Has a body longer than `limit` end with an error, as stated or as it comes.

    Raises:
      Refused: by its own Content-Length; later where more comes.
    """
    remedy = f"send at most {limit} bytes at a time"
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise Refused(413, "Content-Length", int(stated), remedy)
    inner, received = request._receive, 0

    async def receive() -> Any:
        nonlocal received
        message = await inner()
        received += len(message.get("body", b""))
        if received > limit:
            raise Refused(413, "body", f"more than {limit} bytes", remedy)
        return message

    request._receive = receive
