"""Reads and writes state dicts as .npz, .safetensors or PyTorch files; never unpickles objects."""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".tar", ".bin")
SUFFIXES = (".npz", ".safetensors", *TORCH_SUFFIXES)
# What damaged files have been seen to raise in the libraries that read them.
_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError),
    *(RuntimeError, OverflowError, MemoryError, SyntaxError, AssertionError),
    *(struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError),
)
# Where training scripts put the weights among other things.
WRAPPERS = ("state_dict", "model", "module", "net")


class WeightFileError(ValueError):
    """A file cannot be read as a state dict; the message says what was expected and found."""


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
      path: `.npz`, `.safetensors`, or a PyTorch file (`.pth`, `.pt`, `.ckpt`, `.tar`, `.bin`),
        which needs the `torch` extra. In a PyTorch file the weights may lie under
        `state_dict`, `model`, `module` or `net`.

    Returns:
      Arrays by name; bfloat16 becomes float32.

    Raises:
      WeightFileError: if the file is absent, of another kind, truncated, holds code, or holds
        anything but arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightFileError(f"{path} is no file: give a {_known()} file")
    if path.suffix == ".npz":
        arrays = read_npz(path)
    elif path.suffix == ".safetensors":
        arrays = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        arrays = _read_torch(path)
    else:
        raise WeightFileError(f"{path} has the unknown suffix {path.suffix!r}: give {_known()}")
    if not arrays:
        raise WeightFileError(f"{path} holds no array: expected a state dict")
    strange = [f"{n} ({a.dtype})" for n, a in arrays.items() if a.dtype.kind not in "fiub"]
    if strange:
        raise WeightFileError(f"{path} holds what is no number: {', '.join(strange[:10])}")
    return arrays


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict in the format of the suffix, whole or not at all.

    Raises:
      WeightFileError: on an unknown suffix, or a PyTorch file without PyTorch.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightFileError(f"{path} has the unknown suffix {path.suffix!r}: give {_known()}")
    torch = _torch(path) if path.suffix in TORCH_SUFFIXES else None
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        if torch is not None:
            tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
            torch.save({"state_dict": tensors}, temporary)
        elif path.suffix == ".npz":
            # Positional-only in spirit: a name such as "file" must not collide with an argument.
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        else:
            from safetensors.numpy import save_file

            save_file({n: np.array(a, order="C") for n, a in arrays.items()}, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _known() -> str:
    return ", ".join(SUFFIXES)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of any plain type in a `.npz` file.

    Raises:
      WeightFileError: if it is truncated, of another kind, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if not isinstance(data, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array without a name")
            return {name: data[name] for name in data.files}
    except _DAMAGE as error:
        raise WeightFileError(
            f"{path} cannot be read as .npz (truncated, no arrays, or pickled objects, which are "
            f"never loaded): {error}"
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise WeightFileError(
            f"{path} needs the package safetensors: pip install 'rcmstr_jax[torch]'"
        ) from error
    try:
        arrays = load_file(path)
    except (SafetensorError, *_DAMAGE) as error:
        raise WeightFileError(
            f"{path} cannot be read as .safetensors (truncated or of another kind): {error}"
        ) from error
    # ml_dtypes.bfloat16 has kind "V": no NumPy number.
    half = {"bfloat16": np.dtype(np.float32)}
    return {name: a.astype(half.get(a.dtype.name, a.dtype)) for name, a in arrays.items()}


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise WeightFileError(
            f"{path} is a PyTorch file and PyTorch is not installed: "
            "pip install 'rcmstr_jax[torch]', or convert it to .npz or .safetensors first"
        ) from error
    return torch


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightFileError(
            f"{path} cannot be read as a PyTorch state dict; it is truncated, of another kind, or "
            f"holds objects with code, which are never loaded: {first}"
        ) from error
    while isinstance(content, Mapping):
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise WeightFileError(
            f"{path} holds a {type(content).__name__}: expected a state dict (names and tensors)"
        )
    others = [str(k) for k, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightFileError(
            f"{path} holds what is no tensor: {', '.join(others[:10])}; expected a state dict, "
            f"at the top or under {', '.join(WRAPPERS)}"
        )
    half = {torch.bfloat16: torch.float32}
    return {
        str(name): tensor.detach().to(half.get(tensor.dtype, tensor.dtype)).numpy()
        for name, tensor in content.items()
    }
