"""Where a trained recogniser lies, and how it is read: workdirs, folders of weights, names.

A finished evaluation keeps it as the checkpoint `WORKDIR/recognizer`. To be given away it is a
folder of `weights.safetensors`, `config.json` with their SHA-256, and `README.md`; the folders that
come with the package go by their names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import rcmstr_jax
from rcmstr_jax.runtime.checkpoint import CHECKPOINTS, Checkpoints
from rcmstr_jax.runtime.config_files import CONFIG_JSON
from rcmstr_jax.runtime.errors import ConfigError, in_one_line
from rcmstr_jax.runtime.files import write_json

RECOGNIZER, WEIGHTS = "recognizer", "weights.safetensors"
SCORES = "scores"
PACKAGED = Path(rcmstr_jax.__file__).parent / "pretrained"
_ENTRIES = {"model", "decoder", "characters", "description", "code", "dtype", "sha256"}


@dataclasses.dataclass(frozen=True)
class SavedRecognizer:
    """A recogniser as plain data.

    Attributes:
      place: folder that it was read from.
      model: section of a config.
      decoder: `name`, sizes, `max_length`, `beams` and `characters`.
      description: what a report says about it, JSON-ready.
      arrays: float32 by slash-separated path, `encoder/params/...` and so on.
      code: version of the code that trained it.
    """

    place: Path
    model: dict[str, Any]
    decoder: dict[str, Any]
    description: dict[str, Any]
    arrays: dict[str, np.ndarray]
    code: str


def packaged_names() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{WEIGHTS}"))


def find_recognizer(named: str | Path) -> Path | None:
    """The folder of a recogniser's files, None where there is none.

    Args:
      named: a string of `packaged_names` (write `./NAME` for a folder that is called so), a folder
        of weights, or the workdir of a finished evaluation.
    """
    is_name = isinstance(named, str) and named in packaged_names()
    folder = PACKAGED / named if is_name else Path(named)
    if (folder / WEIGHTS).is_file() or (folder.name == RECOGNIZER and folder.is_dir()):
        return folder
    return folder / RECOGNIZER if (folder / RECOGNIZER).is_dir() else None


def require_recognizer(named: str | Path) -> Path:
    """The same.

    Raises:
      ConfigError: there is none; it says what was found instead.
    """
    found = find_recognizer(named)
    if found is not None:
        return found
    refuse_absent(named)
    refuse_unfinished(named)
    below = ", ".join(sorted(str(path.parent) for path in Path(named).glob(f"*/{RECOGNIZER}")))
    remedy = f"one of those below it, {below}" if below else _forms()
    raise ConfigError(f"--pretrained={named} holds no recogniser: give {remedy}")


def recognizer_home(named: str | Path) -> Path:
    """The workdir of a recogniser, or its folder of weights.

    Raises:
      ConfigError: see `require_recognizer`.
    """
    found = require_recognizer(named)
    return found.parent if found.name == RECOGNIZER else found


def default_scores(named: str | Path) -> Path:
    """Where scores go that are given no place: beside a workdir's own, never into given weights."""
    home = recognizer_home(named)
    return Path(SCORES) / home.name if (home / WEIGHTS).is_file() else home / SCORES


def refuse_absent(named: str | Path) -> None:
    """Refuses what is neither a folder nor a known name.

    Raises:
      ConfigError: listing the names.
    """
    if not Path(named).is_dir():
        raise ConfigError(
            f"--pretrained={named}: no folder and no weights of the package are called so: give"
            f" {_forms()}; for an encoder also the --workdir of launch/pretrain.py, or random"
        )


def refuse_unfinished(named: str | Path) -> None:
    """Refuses the workdir of an evaluation that has not come to its end.

    Raises:
      ConfigError: naming the remedy.
    """
    folder = Path(named)
    config = folder / CONFIG_JSON
    content = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if "task" in content:
        raise ConfigError(
            f"--pretrained={named} holds a network of config.task={content['task']}, which nothing"
            " starts from: give what it started from itself"
        )
    started = (folder / "probe" / CHECKPOINTS).is_dir() or "protocol" in content
    if started and find_recognizer(folder) is None:
        raise ConfigError(
            f"--pretrained={named} holds a recogniser whose training has not finished: run its"
            " own command again, which goes on from the newest checkpoint, and take it then"
        )


def _forms() -> str:
    known = "".join(f", or the name {name}" for name in packaged_names())
    return f"the --workdir of a finished launch/evaluate.py, a folder of weights{known}"


def read_saved(folder: str | Path) -> SavedRecognizer:
    """Reads what `find_recognizer` found, and compares it with its digest.

    Raises:
      ConfigError: a folder of weights that is damaged or incomplete, naming file and remedy.
      CheckpointError: the same of a workdir.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return _read_weights(folder)
    with Checkpoints(folder, read_only=True) as checkpoints:
        step, config, arrays = checkpoints.read()
        code = checkpoints.code(step)
    return SavedRecognizer(
        folder, config["model"], config["decoder"], config["description"], arrays, code
    )


def _read_weights(folder: Path) -> SavedRecognizer:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    remedy = (
        "reinstall the package (pip install --force-reinstall rcmstr-jax)"
        if folder.parent == PACKAGED
        else "copy the folder again, or make it anew with launch/convert_weights.py"
    )
    path = folder / CONFIG_JSON
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = sorted(_ENTRIES - content.keys())
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({in_one_line(error)}): {remedy}") from error
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}: {remedy}")
    data = (folder / WEIGHTS).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != content["sha256"]:
        raise ConfigError(
            f"{folder / WEIGHTS} has the SHA-256 {found}, {path} says {content['sha256']}: the file"
            f" is damaged or belongs to another recogniser; {remedy}"
        )
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise ConfigError(f"{folder / WEIGHTS} cannot be read ({error}): {remedy}") from error
    return SavedRecognizer(
        folder,
        content["model"],
        {**content["decoder"], "characters": content["characters"]},
        content["description"],
        {name: array.astype(np.float32) for name, array in arrays.items()},
        content["code"],
    )


def write_weights(folder: Path, saved: SavedRecognizer, dtype: str) -> None:
    """Writes `weights.safetensors` and `config.json` into an existing folder.

    Args:
      folder: takes the files.
      saved: what they hold.
      dtype: of the numbers in the file, "float32" or "float16".
    """
    from safetensors.numpy import save

    arrays: Mapping[str, np.ndarray] = {
        name: np.ascontiguousarray(array, dtype) for name, array in sorted(saved.arrays.items())
    }
    data = save(dict(arrays))
    (folder / WEIGHTS).write_bytes(data)
    decoder = dict(saved.decoder)
    content = {
        "model": saved.model,
        "characters": decoder.pop("characters"),
        "decoder": decoder,
        "description": saved.description,
        "code": saved.code,
        "dtype": dtype,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_json(folder / CONFIG_JSON, content)
