"""What bad input gets: what was expected and found, and nothing in the target folder."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags

from rcmstr_jax.interop.files import WeightFileError, read_arrays, write_arrays
from rcmstr_jax.interop.kinds import KINDS, export_checkpoint
from tests.interop.test_kinds import workdir_arrays

Convert = Callable[..., int]


class Code:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.path)!r}, 'w')",))


@pytest.fixture(scope="module")
def launcher(repository: Path) -> Iterator[Any]:
    """launch/convert_weights.py, its flags removed again afterwards."""
    spec = importlib.util.spec_from_file_location(
        "convert_weights", repository / "launch" / "convert_weights.py"
    )
    assert spec is not None and spec.loader is not None
    before = set(flags.FLAGS)
    path = list(sys.path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.fixture
def convert(launcher: Any) -> Convert:
    def run(source: Path, kind: str, target: Path, *more: str) -> int:
        command = ["convert_weights.py", f"--from={source}", f"--kind={kind}", f"--to={target}"]
        flags.FLAGS.unparse_flags()
        rest = flags.FLAGS([*command, *(more or ("--waive=",))])
        return int(launcher.main(rest))

    return run


def encoder() -> dict[str, np.ndarray]:
    return export_checkpoint(KINDS["resnet"], workdir_arrays("resnet"))


def truncated(path: Path) -> None:
    write_arrays(path, encoder())
    path.write_bytes(path.read_bytes()[:5000])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Code(path.parent / "executed")))


def objects(path: Path) -> None:
    np.savez(path, a=np.array([Code(path.parent / "executed")], dtype=object))


def other_kind(path: Path) -> None:
    write_arrays(path, export_checkpoint(KINDS["vit"], workdir_arrays("vit")))


def other_width(path: Path) -> None:
    arrays = encoder()
    arrays["layer1.0.conv1.weight"] = np.zeros((6, 2, 3, 3), np.float32)
    write_arrays(path, arrays)


def integers(path: Path) -> None:
    write_arrays(path, {**encoder(), "bn1.bias": np.zeros(4, np.int64)})


def gaps(path: Path) -> None:
    arrays = {**encoder(), "head.weight": np.zeros(2, np.float32)}
    del arrays["bn4_2.running_var"]
    write_arrays(path, arrays)


def text(path: Path) -> None:
    np.savez(path, words=np.array(["a", "b"]))


def folder_of_nothing(path: Path) -> None:
    path.mkdir()


BAD: list[tuple[Callable[[Path], None], str, list[str]]] = [
    (truncated, "a.npz", ["a.npz", "truncated"]),
    (truncated, "a.safetensors", ["a.safetensors", "truncated"]),
    (pickled, "a.npz", ["a.npz", "pickled objects, which are never loaded"]),
    (objects, "a.npz", ["a.npz", "never loaded"]),
    (other_kind, "a.npz", ["another kind", "expected", "conv4_2.weight", "found", "blocks.0"]),
    (other_width, "a.npz", ["layer1.0.conv1.weight has shape (6, 2, 3, 3), needs (4, 2, 3, 3)"]),
    (integers, "a.npz", ["bn1.bias holds int64, needs floating numbers"]),
    (gaps, "a.npz", ["missing (1): bn4_2.running_var", "unexpected (1): head.weight"]),
    (text, "a.npz", ["holds what is no number: words"]),
    (folder_of_nothing, "run", ["checkpoint", "run"]),
    (lambda path: None, "absent.npz", ["absent.npz", "is no file"]),
    (lambda path: path.write_bytes(b"x") and None, "a.onnx", ["unknown suffix '.onnx'"]),
]


@pytest.mark.parametrize(("make", "name", "answers"), BAD, ids=lambda v: getattr(v, "__name__", v))
def test_bad_input_is_answered_and_nothing_is_written(
    make: Callable[[Path], None],
    name: str,
    answers: list[str],
    convert: Convert,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / name)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert convert(tmp_path / name, "resnet", tmp_path / "target") == 2
    error = capsys.readouterr().err
    assert error.startswith("nothing was written: ")
    for answer in answers:
        assert answer in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_pytorch_files_with_code_are_refused(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (torch extra)")
    weights = {name: torch.from_numpy(array) for name, array in encoder().items()}
    torch.save({"state_dict": weights, "args": Code(tmp_path / "executed")}, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", "resnet", tmp_path / "target") == 2
    assert "holds objects with code, which are never loaded" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_pytorch_files_go_there_and_back_bit_for_bit(convert: Convert, tmp_path: Path) -> None:
    """As RCLSTR saves one: weights of both branches and queues, beside an optimiser's state."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (torch extra)")
    arrays = export_checkpoint(KINDS["rclstr"], workdir_arrays("rclstr"))
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
    content = {"epoch": 5, "state_dict": weights, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "in.pth")
    assert convert(tmp_path / "in.pth", "rclstr", tmp_path / "run") == 0
    assert convert(tmp_path / "run", "rclstr", tmp_path / "out.pth", "--nofused_bias") == 0
    back = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
    assert set(back) == set(weights)
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_an_export_without_a_part_is_refused(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arrays(tmp_path / "encoder.npz", encoder())
    assert convert(tmp_path / "encoder.npz", "resnet", tmp_path / "run") == 0
    assert convert(tmp_path / "run", "trba", tmp_path / "out.npz", "--nofused_bias") == 2
    error = capsys.readouterr().err
    assert "no whole checkpoint of kind 'trba'" in error and "Prediction" in error
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_damaged_files_never_raise_anything_else(suffix: str, tmp_path: Path) -> None:
    """Cut anywhere, or with a byte changed anywhere: an error of ours, or arrays."""
    if suffix == ".pth":
        pytest.importorskip("torch", reason="PyTorch is not installed (torch extra)")
    path = tmp_path / f"a{suffix}"
    write_arrays(path, {"weight": np.arange(12.0, dtype=np.float32), "step": np.array(3)})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(120):
        place = int(rng.integers(len(whole)))
        changed = bytes([whole[place] ^ int(rng.integers(1, 256))])
        damaged = whole[:place] + (b"" if trial % 2 else changed + whole[place + 1 :])
        path.write_bytes(damaged)
        try:
            read_arrays(path)
        except WeightFileError as error:
            refused += path.name in str(error)
    assert refused >= 60  # every cut at least
