"""Where a checkpoint comes from: the data and the place in them, and the version of the code."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rcmstr_jax
from rcmstr_jax.runtime.digest import CheckpointMismatch


@dataclasses.dataclass(frozen=True)
class DataPosition:
    """What, with the step, decides which images come next.

    Attributes:
      source: fingerprint of the data, from `source_fingerprint`.
      seed: of the shuffle.
      batch_size: global batch.
    """

    source: str
    seed: int
    batch_size: int


def source_fingerprint(source: Any) -> str:
    """Names and lengths of a record source and of its components.

    Enough to notice that data were exchanged, added or removed, without reading them.
    """
    parts = getattr(source, "components", ())
    inside = f" of [{', '.join(map(source_fingerprint, parts))}]" if parts else ""
    length = "endless" if getattr(source, "endless", False) else f"{len(source)} records"
    return f"{source.name} ({length}){inside}"


def check_position(stored: Mapping[str, Any], now: DataPosition) -> None:
    """Compares the data of a checkpoint with those of this run.

    Raises:
      CheckpointMismatch: naming both.
    """
    for field, value in dataclasses.asdict(now).items():
        if stored[field] != value:
            raise CheckpointMismatch(
                f"was trained with data {field} {stored[field]!r}, this run has {value!r}: the "
                "position in the data would be meaningless"
            )


def code_version() -> str:
    """Version of the package, and the commit where it runs from a checkout."""
    package = Path(rcmstr_jax.__file__).resolve().parent
    version = rcmstr_jax.__version__
    command = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return version
    root, commit = answer.stdout.split("\n")[:2]
    # An installation below some other repository must not be labelled with that one's commit.
    return f"{version} {commit}" if Path(root) == package.parent else version
