"""State dicts in three formats; what is damaged or holds code is refused."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rcmstr_jax.interop.files import WeightFileError, read_arrays, write_arrays

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "file": np.array(3, np.int64),
    "half": np.ones((2,), np.float16),
}


class Code:
    """Unpickling it would run something."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_written_is_read_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    if suffix == ".pth":
        pytest.importorskip("torch", reason="PyTorch files need the torch extra")
    path = tmp_path / f"weights{suffix}"
    write_arrays(path, ARRAYS)
    back = read_arrays(path)
    assert set(back) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    write_arrays(path, {"a": np.zeros(1000)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightFileError, match=f"weights{suffix}.*truncated"):
        read_arrays(path)


def test_objects_in_npz_are_not_unpickled(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "evil.npz"
    np.savez(path, a=np.array([Code()], dtype=object))
    with pytest.raises(WeightFileError, match="never loaded"):
        read_arrays(path)
    path.write_bytes(pickle.dumps(Code()))
    with pytest.raises(WeightFileError):
        read_arrays(path)
    assert "executed" not in capsys.readouterr().out


def test_pickles_with_code_are_not_run(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    torch = pytest.importorskip("torch", reason="PyTorch files need the torch extra")
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Code()}, path)
    with pytest.raises(WeightFileError, match="objects with code"):
        read_arrays(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightFileError, match="truncated"):
        read_arrays(path)
    assert "executed" not in capsys.readouterr().out


def test_torch_wrappers_and_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch files need the torch extra")
    path = tmp_path / "a.tar"
    weights = {"a": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"epoch": 3, "model": {"state_dict": weights}}, path)
    assert read_arrays(path)["a"].dtype == np.float32
    torch.save({"epoch": 3, "a": weights["a"]}, path)
    with pytest.raises(WeightFileError, match="epoch"):
        read_arrays(path)
    torch.save(torch.zeros(2), path)
    with pytest.raises(WeightFileError, match="holds a Tensor"):
        read_arrays(path)


def test_without_torch_the_remedy_is_named(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "a.pth"
    path.write_bytes(b"x")
    with pytest.raises(WeightFileError, match=r"rcmstr_jax\[torch\]"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["a.onnx", "b.npz", "empty.npz", "text.npz"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    if name == "a.onnx":
        (tmp_path / name).write_bytes(b"x")
    elif name == "empty.npz":
        with zipfile.ZipFile(tmp_path / name, "w"):
            pass
    elif name == "text.npz":
        np.savez(tmp_path / name, words=np.array(["a", "b"]))
    with pytest.raises(WeightFileError, match=name):
        read_arrays(tmp_path / name)
    if name == "a.onnx":
        with pytest.raises(WeightFileError, match="unknown suffix"):
            write_arrays(tmp_path / name, ARRAYS)
