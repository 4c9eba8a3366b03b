"""What ends a run: the user's mistakes, failures of the machine, and their words on one line.

A message names the field, its value and the remedy, because it is all that a user sees.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# What launch/ exits with. 75 is EX_TEMPFAIL of sysexits.h: try again, and it goes away. So is 76,
# where another process of the run was lost, and nothing could be saved any more.
EXIT_FAILED, EXIT_CONFIG, EXIT_PREEMPTED, EXIT_LOST = 1, 2, 75, 76
_BEGINNING, _END = 140, 180


class ConfigError(ValueError):
    """A run that cannot work as configured; `launch/` prints it as one line and exits with 2."""


class RunFailed(RuntimeError):
    """A run that cannot go on, through no mistake in its config; one line, and exit code 1."""


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like `name`, also by its last part alone."""
    known = list(known)
    last = name.rsplit(".", 1)[-1]

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, name, candidate).ratio()
        part = difflib.SequenceMatcher(None, last, candidate.rsplit(".", 1)[-1]).ratio()
        return max(whole, 0.95 * part)

    return max(known, key=likeness)


def listed(**names: Sequence[str]) -> str:
    """`missing (2): a, b; unexpected (1): c`, without what is empty."""
    groups = (
        f"{title} ({len(group)}): {', '.join(group)}" for title, group in names.items() if group
    )
    return "; ".join(groups)


def in_one_line(error: BaseException) -> str:
    """Type and text of an error on one line.

    Of a long text the middle is left out: libraries put where it happened at the beginning, and
    what the operating system said at the end.
    """
    text = " ".join(str(error).split())
    if len(text) > _BEGINNING + _END:
        text = f"{text[:_BEGINNING]} ... {text[-_END:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
