"""Recognisers by name and as folders of weights: what is found, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from rcmstr_jax import Recognizer, load_encoder
from rcmstr_jax.recognition import saved
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition
from tests.recognition.toy_recognizer import NOISE, toy_recognizer

SHIPPED = saved.PACKAGED / "compact"
MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A finished evaluation."""
    folder = tmp_path_factory.mktemp("evaluation")
    toy_recognizer(scale=30.0).save(folder, DataPosition("words", 0, 8))
    return folder


@pytest.fixture(scope="module")
def weights(workdir: Path, tmp_path_factory) -> Path:
    """The same as a folder of weights."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    folder.mkdir()
    saved.write_weights(folder, saved.read_saved(workdir / "recognizer"), "float32")
    return folder


@pytest.fixture
def packaged(weights: Path, monkeypatch) -> str:
    """The folder as if it had come with the package."""
    monkeypatch.setattr(saved, "PACKAGED", weights.parent)
    return "tiny"


def test_a_folder_of_weights_reads_like_its_workdir(workdir, weights) -> None:
    known = toy_recognizer(scale=30.0)(NOISE)
    assert len({word.text for word in known}) > 1
    for place in (workdir, workdir / "recognizer", weights, str(weights)):
        loaded = Recognizer.from_pretrained(place, batch_size=4)
        assert loaded(NOISE) == known and loaded.description["seed"] == 3
    content = json.loads((weights / "config.json").read_text())
    assert content["characters"] == loaded.head.charset.characters
    assert "characters" not in content["decoder"] and content["code"]


def test_weights_go_by_their_name(packaged, weights, workdir, tmp_path, monkeypatch) -> None:
    assert saved.packaged_names() == ["tiny"]
    loaded = Recognizer.from_pretrained(packaged, batch_size=4)
    assert loaded(NOISE) == Recognizer.from_checkpoint(weights, batch_size=4)(NOISE)
    assert saved.default_scores("tiny") == Path("scores/tiny")
    assert saved.default_scores(str(workdir)) == workdir / "scores"
    # A name stands for the weights of the package, ./NAME and a Path for a folder.
    monkeypatch.chdir(tmp_path)
    Path("tiny/recognizer").mkdir(parents=True)
    assert saved.find_recognizer("tiny") == weights
    assert saved.find_recognizer("./tiny") == saved.find_recognizer(Path("tiny"))
    assert saved.find_recognizer("./tiny") == Path("tiny/recognizer")


@pytest.mark.parametrize("load", [Recognizer.from_pretrained, load_encoder])
def test_an_unknown_name_lists_the_known_ones(packaged, load) -> None:
    with pytest.raises(
        ConfigError, match=r"^--pretrained=tinny: no folder and no weights.*the name tiny"
    ):
        load("tinny")


@pytest.mark.parametrize("load", [Recognizer.from_pretrained, load_encoder])
def test_damaged_weights_are_named_with_the_remedy(weights, load, tmp_path, monkeypatch) -> None:
    folder = Path(shutil.copytree(weights, tmp_path / "tiny"))
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    damaged = r"weights.safetensors has the SHA-256 \w{64}, .*config.json says \w{64}"
    with pytest.raises(ConfigError, match=f"{damaged}.*copy the folder again"):
        load(folder)
    monkeypatch.setattr(saved, "PACKAGED", folder.parent)
    with pytest.raises(ConfigError, match=f"{damaged}.*pip install --force-reinstall"):
        load("tiny")
    (folder / "config.json").write_text('{"model": {}}')
    with pytest.raises(ConfigError, match=r"config.json lacks characters.*reinstall"):
        load("tiny")
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json cannot be read \(JSONDecodeError.*reinst"):
        load("tiny")


@pytest.mark.parametrize("part", ["decoder/", "encoder/params/"])
def test_weights_of_another_shape_are_refused(workdir, tmp_path, part) -> None:
    held = saved.read_saved(workdir / "recognizer")
    name = next(n for n in held.arrays if n.startswith(part) and n.endswith("bias"))
    arrays = {**held.arrays, name: held.arrays[name][1:]}
    saved.write_weights(tmp_path, dataclasses.replace(held, arrays=arrays), "float32")
    path, needed = name.removeprefix("encoder/"), len(held.arrays[name])
    wrong = rf"does not fit.*{path} is \({needed - 1},\), needs \({needed},\)"
    with pytest.raises(ConfigError, match=wrong):
        Recognizer.from_pretrained(tmp_path)


def test_the_encoder_of_a_recogniser(workdir, packaged) -> None:
    known, images = toy_recognizer().encoder, np.stack(NOISE)
    for name in (packaged, str(workdir)):
        encoder = load_encoder(name)
        frames = encoder(images)
        assert frames.shape == (6, *encoder.frames_shape())
        np.testing.assert_array_equal(frames, known(images))
        assert encoder.origin["source"] == name and encoder.origin["step"] == 1
    start = load_encoder(f"random:{workdir}")  # which this one has not left
    assert start.origin["source"] == "random" and start.origin["of"] == str(workdir)
    np.testing.assert_array_equal(start(images), known(images))
    with pytest.raises(ConfigError, match="config.branch='momentum'.*leave it at 'online'"):
        load_encoder(packaged, branch="momentum")
    with pytest.raises(ConfigError, match="random has no architecture: give random:DIR"):
        load_encoder("random")


@pytest.mark.parametrize("load", [Recognizer.from_pretrained, load_encoder])
def test_an_unfinished_evaluation_is_refused(load, tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text('{"protocol": "finetune", "model": {}}')
    with pytest.raises(ConfigError, match="not finished: run its own command again"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "probe/checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not finished: run its own command again"):
        load(tmp_path)


def test_recognisers_below_a_folder_are_named(workdir, tmp_path) -> None:
    shutil.copytree(workdir, tmp_path / "runs/pretrained")
    with pytest.raises(ConfigError, match="runs holds no recogniser: give .*runs/pretrained$"):
        Recognizer.from_pretrained(tmp_path / "runs")


@pytest.mark.skipif(not SHIPPED.is_dir(), reason=f"{SHIPPED} is absent: no weights are shipped yet")
def test_the_shipped_weights_read_words() -> None:
    files = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}
    assert set(files) == {"weights.safetensors", "config.json", "README.md"}
    assert sum(files.values()) < MAX_BYTES
    assert not any("/root/" in (SHIPPED / n).read_text() for n in ("config.json", "README.md"))
    recognizer = Recognizer.from_pretrained("compact")
    words = ["street", "coffee", "station"]
    images = []
    for word in words:
        font = ImageFont.load_default(40)
        left, top, right, bottom = font.getbbox(word)
        image = Image.new("RGB", (int(right - left) + 16, int(bottom - top) + 16), "white")
        ImageDraw.Draw(image).text((8 - left, 8 - top), word, fill="black", font=font)
        images.append(image)
    assert [word.text for word in recognizer(images)] == words
    height, width = recognizer.encoder.image_size
    encoder = load_encoder("compact")
    assert encoder(np.zeros((1, height, width, 3), np.uint8)).shape[1:] == encoder.frames_shape()
