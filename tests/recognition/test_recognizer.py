"""A saved recogniser: what it holds, what it takes, and that a word alone reads as among others."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import shutil
import types
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import rcmstr_jax
from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.decode import UndecodableImage
from rcmstr_jax.recognition.encoders import random_encoder
from rcmstr_jax.recognition.heads import Word, make_head
from rcmstr_jax.recognition.reading import Answer, find_images, read_images
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.provenance import DataPosition

CHARSET = Charset("aéz9")
NOISE = np.random.default_rng(0).integers(0, 256, (7, 4, 16, 3)).astype(np.uint8)
IMAGES = [cv2.resize(image, (128, 32)) for image in NOISE]


@functools.cache
def make(name: str = "linear") -> Recognizer:
    """An untrained recogniser that nevertheless tells images apart."""
    config = common.get_config()
    config.model.encoder, config.model.image_width = "vit", 128
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    section = config_to_jsonable(config.model)
    encoder = random_encoder(section, seed=0)
    head = make_head(name, CHARSET, hidden=8, depth=1, max_length=5)
    # As drawn, all images would be read alike: a draw that differs, and larger matrices.
    seed, scale = {"linear": (0, 100), "attention": (0, 4), "transformer": (2, 3)}[name]
    frames = jnp.zeros((2, *encoder.frames_shape()))
    params = jax.jit(head.init)(jax.random.key(seed), frames)
    params = jax.tree.map(lambda x: scale * x if x.ndim > 1 else x, params)
    if name == "linear":  # what frames of different images have in common hides their differences
        frames = jax.jit(encoder.infer)(encoder.params, encoder.batch_stats, np.stack(IMAGES))
        params["bias"] = -jnp.mean(frames, axis=(0, 1)) @ params["kernel"]
    description = {"encoder": encoder.origin, "steps": 3, "protocol": "frozen", "none": None}
    return Recognizer(encoder, head, params, description, batch_size=4)


def searching(recognizer: Recognizer, beams: int, batch_size: int = 4) -> Recognizer:
    head = dataclasses.replace(recognizer.head, beams=beams)
    return dataclasses.replace(recognizer, head=head, batch_size=batch_size)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return make()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return IMAGES


@pytest.fixture(scope="module")
def saved(recognizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    recognizer.save(folder, DataPosition("words", 0, 8))
    return folder


def test_a_word_alone_reads_as_among_others(recognizer, images) -> None:
    together = recognizer(images)
    assert [recognizer(image)[0] for image in images] == together  # confidences to the last bit
    assert recognizer(images[::-1]) == together[::-1]
    assert len({word.text for word in together}) > 3


@pytest.mark.parametrize(
    ("name", "beams", "batch_size"),
    [
        ("linear", 1, 3),
        ("linear", 1, 8),
        ("attention", 1, 8),
        ("transformer", 1, 8),
        ("transformer", 2, 8),
    ],
)
def test_padded_and_sharded_reading_equals_one_by_one(images, name, beams, batch_size) -> None:
    """On the four devices of the tests, 8 rows are divided and 3 are not."""
    recognizer = searching(make(name), beams, batch_size)
    encoder, head = recognizer.encoder, recognizer.head

    @jax.jit
    def alone(image):  # neither padding nor sharding
        frames = encoder.infer(encoder.params, encoder.batch_stats, image[None])
        return head.read(recognizer.decoder_params, frames)

    read = [word for image in images for word in head.words(alone(image))]
    found = recognizer(images)
    assert [word.text for word in found] == [word.text for word in read]
    assert len({word.text for word in found}) > 3
    sure, expected = ([word.confidence for word in words] for words in (found, read))
    np.testing.assert_allclose(sure, expected, rtol=1e-5)


def test_everything_needed_is_in_the_folder(recognizer, saved, images) -> None:
    loaded = rcmstr_jax.Recognizer.from_checkpoint(saved, batch_size=4)
    assert loaded(images) == recognizer(images)
    assert loaded.head.charset == CHARSET and loaded.head.max_length == 5
    assert loaded.description == recognizer.description
    again = Recognizer.from_checkpoint(saved / "recognizer")
    jax.tree.map(np.testing.assert_array_equal, again.decoder_params, recognizer.decoder_params)


def test_a_transformer_keeps_its_size_and_its_beams(tmp_path) -> None:
    recognizer = searching(make("transformer"), beams=2)
    recognizer.save(tmp_path, DataPosition("words", 0, 8))
    assert Recognizer.from_checkpoint(tmp_path).head.beams == 2
    loaded = Recognizer.from_checkpoint(tmp_path, beams=1)
    assert loaded.head.beams == 1 and loaded.head.module == recognizer.head.module


def test_all_kinds_of_images(recognizer, images, tmp_path) -> None:
    picture = Image.fromarray(images[0])
    path = tmp_path / "word.png"
    picture.save(path)
    kinds = [str(path), path, path.read_bytes(), picture, images[0]]
    assert len(set(recognizer(kinds))) == 1
    grey = images[0][..., 0]
    assert len(set(recognizer([grey, grey[..., None], np.stack([grey] * 3, axis=-1)]))) == 1
    clear = np.dstack([images[0], np.zeros((32, 128), np.uint8)])  # nothing but transparency
    assert recognizer(clear) == recognizer(np.full((32, 128, 3), 255, np.uint8))


def test_what_is_no_image(recognizer, tmp_path) -> None:
    with pytest.raises(UndecodableImage, match="not an image"):
        recognizer(b"nothing of the kind")
    with pytest.raises(ValueError, match="float64: give uint8"):
        recognizer(np.zeros((32, 128, 3)))
    with pytest.raises(FileNotFoundError):
        recognizer(tmp_path / "none.png")


def test_no_recogniser_and_a_damaged_one(saved, tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no recogniser.*launch/evaluate.py"):
        Recognizer.from_checkpoint(tmp_path)
    shutil.copytree(saved, tmp_path / "copy")
    for path in (tmp_path / "copy/recognizer/checkpoints/3/state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="readable"):
        Recognizer.from_checkpoint(tmp_path / "copy")


def test_folders_are_read_with_other_files_counted(recognizer, images, tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    for name, image in {"b.png": images[0], "deep/a.JPG": images[1]}.items():
        Image.fromarray(image).convert("RGB").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "c.png").write_bytes(b"no image either")
    names, skipped = find_images([str(tmp_path)])
    assert [Path(name).name for name in names] == ["b.png", "c.png", "a.JPG"] and skipped == 1
    answers = list(read_images(recognizer, names))
    assert [answer.word is None for answer in answers] == [False, True, False]
    assert answers[0].word == recognizer(images[0])[0]
    assert "not an image" in answers[1].error and "error" in answers[1].as_dict()
    # A named file is taken as an image whatever it is called.
    assert find_images([str(tmp_path / "notes.txt")]) == ([str(tmp_path / "notes.txt")], 0)


@dataclasses.dataclass
class Brightness:
    """Stands for a recogniser: surer, the brighter the left half of an image is."""

    batch_size = 2
    encoder = types.SimpleNamespace(image_size=(32, 100))

    def read(self, images) -> list[Word]:
        return [Word("w", float(image[:, :50].mean()) / 255, (1.0,)) for image in images]


def test_vertical_crops_are_read_turned(tmp_path) -> None:
    level = np.zeros((40, 120, 3), np.uint8)
    level[:, :60] = 255
    for name, image in {"a": level, "b": np.rot90(level), "c": np.rot90(level, -1)}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_bytes(b"")
    names, _ = find_images([str(tmp_path)])

    def sure(vertical: str) -> list[float | None]:
        answers = read_images(Brightness(), names, vertical)
        return [None if a.word is None else round(a.word.confidence, 1) for a in answers]

    assert sure("off") == [1.0, 0.5, 0.5, None]
    assert sure("left") == [1.0, 0.0, 1.0, None] and sure("right") == [1.0, 1.0, 0.0, None]
    assert sure("auto") == [1.0, 1.0, 1.0, None]


def test_answers_as_json() -> None:
    answer = Answer("a.png", Word("é9", 0.123456, (0.5, 0.25)))
    assert json.loads(json.dumps(answer.as_dict())) == {
        "image": "a.png",
        "text": "é9",
        "confidence": 0.1235,
        "characters": [["é", 0.5], ["9", 0.25]],
    }


def test_standard_input(recognizer, images, monkeypatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(images[2]).save(buffer, "png")
    buffer.seek(0)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(buffer))
    (answer,) = read_images(recognizer, find_images(["-"])[0])
    assert answer.name == "-" and answer.word == recognizer(images[2])[0]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "give images"),
        (["-", "a.png"], "- alone"),
        (["no/such.png"], "no image or folder no/such.png"),
    ],
)
def test_mistaken_paths(paths, message) -> None:
    with pytest.raises(ValueError, match=message):
        find_images(paths)


def test_a_folder_without_images(tmp_path) -> None:
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(ValueError, match=r"no image in .*\(1 other files\).*\.jpg"):
        find_images([str(tmp_path)])
