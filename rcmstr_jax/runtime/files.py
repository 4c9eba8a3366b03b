"""The one way to write a file or a folder, whole or not at all, and JSON back as dataclasses."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rcmstr_jax.runtime.errors import ConfigError

logger = logging.getLogger(__name__)


# `Path` leaves one slash of two.
_SCHEME = re.compile(
    r"(?<![\w+.-])(?P<scheme>[A-Za-z][\w+.-]*(?=://)|gs(?=:/)|s3(?=:/)):/+(?P<at>\S*)"
)
# How the files of a bucket come here.
_BUCKETS = {
    "gs": "gcloud storage cp -r {} DIR, or mount it with gcsfuse",
    "s3": "aws s3 cp --recursive {} DIR, or mount it with mount-s3",
}


def refuse_remote(name: str, value: Any) -> None:
    """Refuses what is no path of this machine, before it is taken for a folder called `gs:`.

    Args:
      name: of the flag or field, for the message.
      value: its value, or several; only text is looked at, also behind `lmdb:` or `tfds:NAME@`.

    Raises:
      ConfigError: it has a scheme, `gs://BUCKET/...` for example.
    """
    if isinstance(value, list | tuple):
        for one in value:
            refuse_remote(name, one)
    elif isinstance(value, str | Path) and (found := _SCHEME.search(str(value))):
        scheme, place = found["scheme"].lower(), f"{found['scheme']}://{found['at']}"
        remedy = f"{_BUCKETS.get(scheme, 'copy {} here').format(place)}, and give that folder"
        if scheme == "file":
            remedy = f"give /{found['at']}"
        raise ConfigError(
            f"{name}={value}: {scheme}:// is not supported, only what lies on this machine or is "
            f"mounted there: {remedy}"
        )


def write_text(path: str | Path, text: str) -> None:
    """Writes beside the file and puts the result in its place, so that readers see old or new."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """The same, of bytes."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # Which does not say by itself what was written.
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: str | Path, content: Any) -> None:
    """The same, of what JSON can hold, or dataclasses; NaN and infinity are no JSON."""
    text = json.dumps(
        content, indent=2, ensure_ascii=False, allow_nan=False, default=dataclasses.asdict
    )
    write_text(path, text + "\n")


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to be filled within the block, which then takes the place of what lies at `path`.

    It goes, and `path` is as before, if the block ends with an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Keeps other processes out of a folder within the block, however this one ends.

    Args:
      folder: that exists; a hidden file in it is locked.
      name: flag or field that a user gives another place with.

    Raises:
      ConfigError: if a process is in there, naming it.
    """
    with (folder / ".held").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{name} is in use by {file.read().strip() or 'a process'}: wait until it has left,"
                f" stop it, or give another {name.partition('=')[0].lstrip('-')}"
            ) from error
        except OSError as error:
            logger.warning("%s cannot be held: let one process write there (%s)", folder, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def from_json(kind: Any, value: Any) -> Any:
    """A JSON value as `kind`, which may be a dataclass and hold others in lists and dicts.

    Names that a dataclass does not know are left out; those that it has a default for may miss.

    Raises:
      ValueError: another name is missing.
    """
    if value is None:
        return None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
        optional = (dataclasses.MISSING, dataclasses.MISSING)
        lacking = [
            field.name
            for field in fields
            if field.name not in value and (field.default, field.default_factory) == optional
        ]
        if lacking:
            raise ValueError(f"{kind.__name__} lacks {', '.join(lacking)}")
        known = [field.name for field in fields if field.name in value]
        return kind(**{name: from_json(hints[name], value[name]) for name in known})
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return from_json(inner[0], value)
    if origin is list:
        return [from_json(inner[0], item) for item in value]
    if origin is dict:
        return {name: from_json(inner[1], item) for name, item in value.items()}
    return float(value) if kind is float else value
