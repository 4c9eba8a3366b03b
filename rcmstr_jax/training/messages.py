"""Errors of other libraries as a part of our own messages."""

from __future__ import annotations

_BEGINNING, _END = 140, 180


def in_one_line(error: BaseException) -> str:
    """Type and text of an error on one line.

    Of a long text the middle is left out: libraries put where it happened at the beginning, and
    what the operating system said at the end.
    """
    text = " ".join(str(error).split())
    if len(text) > _BEGINNING + _END:
        text = f"{text[:_BEGINNING]} ... {text[-_END:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
