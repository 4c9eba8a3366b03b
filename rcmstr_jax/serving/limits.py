"""What the server takes, and what it answers to what it does not take."""

from __future__ import annotations

import dataclasses
from typing import Any

MEGABYTE = 10**6


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of memory and time; pixels are bounded by `data.decode.MAX_PIXELS`.

    Attributes:
      image_bytes: of an encoded image.
      body_bytes: of a request.
      images: of a request.
      bodies: requests whose images are received and decoded at a time, others wait unread: together
        they hold `bodies * body_bytes` at most.
      waiting: decoded images that wait for a batch, over all requests.
      seconds: until the images of a request have to be there.
    """

    image_bytes: int = 8 * MEGABYTE
    body_bytes: int = 16 * MEGABYTE
    images: int = 64
    bodies: int = 32
    waiting: int = 4096
    seconds: float = 30.0


class Refused(Exception):
    """A request that is answered with an error; see `as_dict`."""

    def __init__(self, status: int, field: str, value: Any, remedy: str) -> None:
        super().__init__(f"{field}: {value}: {remedy}")
        self.status, self.field, self.value, self.remedy = status, field, value, remedy

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: what it is about, what was given, and what would be right."""
        return {"field": self.field, "value": self.value, "remedy": self.remedy}


def clean_name(name: str | None) -> str:
    """A file's name as it may be shown: no control characters, of bounded length."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name or "image")
    return shown if len(shown) <= 200 else f"{shown[:199]}…"
