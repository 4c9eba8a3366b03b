"""Exported recognisers compute what they were exported from, in processes without this package."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest

from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.recognition import loader
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition
from tests.interop.test_bad_input import Convert, convert, launcher  # noqa: F401  (fixtures)
from tests.recognition.toy_recognizer import NOISE, toy_recognizer

# What a machine that only loads does not have.
FOREIGN = ("rcmstr_jax", "flax", "cv2", "grain", "absl", "ml_collections", "orbax", "safetensors")


def blocks(count: int = 4) -> list[np.ndarray]:
    draw = np.random.default_rng(1)
    return [
        cv2.resize(draw.integers(0, 256, (4, 9, 3)).astype(np.uint8), (90 + 30 * i, 20 + 15 * i))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return toy_recognizer("linear", scale=8.0)


@pytest.fixture(scope="module")
def stablehlo(recognizer: Recognizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "stablehlo"
    sizes = recognizer.export(folder, "stablehlo")
    assert set(sizes) == {"model.stablehlo", "weights.npz", "recognizer.json", "loader.py"}
    return folder


def reader(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("loader", folder / "loader.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reader()


@pytest.mark.parametrize("name", ["linear", "plain_attention"])
def test_stablehlo_is_the_same_to_the_last_bit(name: str, recognizer, stablehlo, tmp_path) -> None:
    """Of attention the confidence of characters differs by rounding: it is summed otherwise."""
    if name != "linear":
        recognizer, stablehlo = toy_recognizer(name, scale=3.0), tmp_path / name
        recognizer.export(stablehlo)
    read, network = reader(stablehlo), jax.jit(recognizer.network)
    for count in (1, 3):  # any number of images
        images = np.stack(NOISE[:count])
        known = recognizer.head.words(network(recognizer.weights, images))
        found = read.words(*read.run(images))
        assert [text for text, _, _ in found] == [word.text for word in known]
        if name != "plain_attention":
            assert [sure for _, sure, _ in found] == [word.confidence for word in known]
            assert [tuple(each) for _, _, each in found] == [word.characters for word in known]
        else:
            for (_, _, each), word in zip(found, known, strict=True):
                np.testing.assert_allclose(each, word.characters, rtol=1e-6)


def test_the_loader_needs_no_package_of_ours(recognizer, stablehlo, tmp_path) -> None:
    paths = []
    for number, image in enumerate(blocks()):
        paths.append(str(tmp_path / f"{number}.{'png' if number % 2 else 'jpg'}"))
        cv2.imwrite(paths[-1], image)
    block = f"import sys; sys.modules.update(dict.fromkeys({FOREIGN!r})); import runpy; "
    run = (
        f"sys.argv[:] = ['loader.py', *{paths!r}]; runpy.run_path('loader.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", block + run], cwd=stablehlo, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert found == [word.text for word in recognizer(paths)]


def test_onnx_agrees_to_a_hundred_thousandth(recognizer, tmp_path) -> None:
    pytest.importorskip("jax2onnx", reason="the extra onnx is not installed")
    recognizer.export(tmp_path / "onnx", "onnx")
    read = reader(tmp_path / "onnx")
    assert "jax" not in (tmp_path / "onnx/loader.py").read_text().partition("import json")[2]
    for count in (1, 4):
        images = np.stack(NOISE[:count])
        found, known = read.words(*read.run(images)), recognizer.reader(images)
        assert [text for text, _, _ in found] == [word.text for word in known]
        for (_, sure, each), word in zip(found, known, strict=True):
            assert sure == pytest.approx(word.confidence, abs=1e-5)
            np.testing.assert_allclose(each, word.characters, atol=1e-5)


def test_what_cannot_be_exported_is_refused(recognizer, stablehlo, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="format='tf' is unknown: choose one of stablehlo, onnx"):
        recognizer.export(tmp_path / "a", "tf")
    with pytest.raises(ConfigError, match="transformer's search.*format='stablehlo'"):
        head = dataclasses.replace(recognizer.head, name="transformer")
        dataclasses.replace(recognizer, head=head).export(tmp_path / "a", "onnx")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ConfigError, match=r"needs jax2onnx: pip install 'rcmstr-jax\[onnx\]'"):
        recognizer.export(tmp_path / "a", "onnx")
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match="exists and is no exported recogniser: give a new one"):
        recognizer.export(tmp_path, "stablehlo")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert json.loads((stablehlo / "recognizer.json").read_text())["end"] == 0


@pytest.mark.parametrize("shape", [(11, 40), (32, 100), (32, 37), (70, 64), (64, 900), (20, 300)])
def test_the_loader_resizes_as_the_package_does(shape: tuple[int, int], tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(noise, (5, 5), 1.0)
    for suffix in (".png", ".jpg"):
        path = tmp_path / f"a{suffix}"
        cv2.imwrite(str(path), image)
        ours = loader.load(path, (32, 100), 10**6).astype(int)
        difference = np.abs(ours - decode_image(path.read_bytes(), (32, 100)))
        assert difference.max() <= 1, (suffix, difference.max(), difference.mean())


def test_the_word_s_probability_is_that_of_all_its_alignments() -> None:
    """By enumeration: three frames of two characters and the blank."""
    draw = np.random.default_rng(0).normal(size=(3, 3))
    logs = draw - np.log(np.exp(draw).sum(-1, keepdims=True))

    def spelt(classes: list[int]) -> list[int]:
        return [c for i, c in enumerate(classes) if c and (i == 0 or c != classes[i - 1])]

    everything = [[a, b, c] for a in range(3) for b in range(3) for c in range(3)]
    for classes in ([0, 0, 0], [1, 0, 1], [1, 1, 2], [2, 0, 0]):
        paths = [path for path in everything if spelt(path) == spelt(classes)]
        expected = sum(np.exp(logs[range(3), path].sum()) for path in paths)
        assert loader.alignments(logs, np.array(classes), 0) == pytest.approx(expected, rel=1e-12)


def test_the_command_exports_and_names_its_flag(
    recognizer: Recognizer,
    convert: Convert,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recognizer.save(tmp_path / "run", DataPosition("words", 0, 8))
    assert convert(tmp_path / "run", "stablehlo", tmp_path / "out") == 0
    assert "model.stablehlo" in capsys.readouterr().out
    assert reader(tmp_path / "out").about["description"]["seed"] == 3
    assert convert(tmp_path / "out", "stablehlo", tmp_path / "again") == 2
    assert f"--from={tmp_path / 'out'} holds no recogniser" in capsys.readouterr().err
