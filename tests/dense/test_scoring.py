"""Measures of dense tasks by hand, their tables, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.configs.evaluate import segmentation, super_resolution
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.records import BadRecord
from rcmstr_jax.dense import results as res
from rcmstr_jax.dense.heads import make_head
from rcmstr_jax.dense.network import load_network
from rcmstr_jax.dense.protocols import summary_rows
from rcmstr_jax.dense.scoring import score_set, words_right
from rcmstr_jax.evaluation.runs import Run
from rcmstr_jax.recognition.heads import Word
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.dense_plan import dense_plan
from tests.dense.toy_task import ToyWords, toy_words


def network(task: str, answer) -> Any:
    class Network:
        def __call__(self, images: np.ndarray) -> np.ndarray:
            return answer(images)

    found: Any = Network()
    found.task = task
    return found


def by_method(scores: res.SetScores) -> dict[str, dict[str, res.Estimate]]:
    return {row.method: row.measures for row in scores.rows}


def test_masks_are_scored_beside_otsu_and_drawn(tmp_path: Path) -> None:
    """Dark strokes on light noise: Otsu finds them all; a network finds their left half."""
    words = toy_words("segmentation")
    truth = np.stack([word.target for word in words])

    def half(images: np.ndarray) -> np.ndarray:
        return np.stack([np.where(np.arange(48) < 7 + i, t, 0) for i, t in enumerate(truth)])

    picture = tmp_path / "a/b.png"
    scores = score_set(network("segmentation", half), words, FaultLog(), picture)
    found = by_method(scores)
    assert list(found) == ["Otsu", "network"]
    assert found["Otsu"]["iou"] == res.Estimate(100.0, [100.0, 100.0])
    # 3 of 6 columns: recall 1/2, precision 1, F 2/3.
    values = {name: measure.value for name, measure in found["network"].items()}
    assert values == {"iou": 50.0, "precision": 100.0, "recall": 50.0, "f": 66.6667}
    assert (scores.images, scores.left_out, scores.labelled) == (12, 0, 12)
    assert Image.open(picture).size[1] > 12 * 32


def test_enlargements_are_scored_beside_bicubic_and_read() -> None:
    words = toy_words("super_resolution")
    truth = np.stack([word.target for word in words])
    words[3] = dataclasses.replace(words[3], label="")  # is looked at, not read

    class Reader:
        def __call__(self, images: list[np.ndarray]) -> list[Word]:
            true = (any(np.array_equal(image, one) for one in truth) for image in images)
            return [Word("I!" if known else "j", 1.0, ()) for known in true]

    reader: Any = Reader()
    near = truth.astype(np.int16) + np.where(np.arange(12) < 6, 0, 10)[:, None, None, None]
    answer = np.clip(near, 0, 255).astype(np.uint8)
    scores = score_set(
        network("super_resolution", lambda images: answer), words, FaultLog(), None, reader
    )
    found = by_method(scores)
    assert list(found) == ["small image", "bicubic", "network", "true image"]
    assert found["small image"].keys() == found["true image"].keys() == {"words"}
    assert found["true image"]["words"].value == 100.0 and scores.labelled == 11
    assert found["small image"]["words"].value == 0.0
    assert found["network"]["words"].value == round(100 * 5 / 11, 4)
    psnr = found["network"]["psnr"]
    assert psnr.value > found["bicubic"]["psnr"].value and psnr.interval[0] < psnr.value
    rows = res.table_rows(scores)
    assert rows[0] == ("method", "words right %", "PSNR dB", "SSIM")
    assert rows[1][2:] == ("–", "–") and rows[3][3].count(".") == 3


def test_images_that_cannot_be_used_are_left_out_and_counted() -> None:
    class Damaged(ToyWords):
        def __getitem__(self, index: int):
            if index == 1:
                raise BadRecord("not an image")
            return super().__getitem__(index)

    words, faults = Damaged(toy_words("segmentation")), FaultLog()
    empty = network("segmentation", lambda images: np.zeros(images.shape[:3], np.uint8))
    scores = score_set(empty, words, faults, None)
    assert (scores.images, scores.left_out) == (11, 1)
    assert by_method(scores)["network"]["iou"].value == 0.0
    # Nothing is called text: there is nothing to divide by.
    assert by_method(scores)["network"]["precision"] == res.Estimate(None, [None, None])
    json.dumps(dataclasses.asdict(scores), allow_nan=False)


def test_words_whose_label_has_no_letter_are_left_out() -> None:
    reader: Any = lambda images: [Word("ab", 1.0, ())] * 3  # noqa: E731
    found = words_right(reader, np.zeros((3, 4, 4, 3), np.uint8), ["A-B", "?!", "c"])
    assert found.value == 50.0


def test_a_summary_has_means_over_seeds_and_the_baseline_once() -> None:
    def result(iou: float) -> Any:
        rows = [("Otsu", 40.0), ("network", iou)]
        found = [res.Row(name, {"iou": res.Estimate(value, [0.0, 1.0])}) for name, value in rows]
        return SimpleNamespace(scored=[res.SetScores("toy", 3, 0, 3, found)])

    runs = [Run("", "pretrained", "x", 200.0, seed) for seed in (0, 1)]
    runs.append(Run("", "random_init", "x", 200.0, 0))
    rows = summary_rows(runs, [result(60.0), result(62.0), result(50.0)])
    assert rows == [
        ("set", "labels", "method", "runs", "IoU %"),
        ("toy", "", "Otsu", "1", "40.00"),
        ("toy", "200", "pretrained", "2", "61.00 ± 1.41"),
        ("toy", "200", "random_init", "1", "50.00"),
    ]


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        (segmentation, {"task": "segmentatoin"}, "did you mean 'segmentation'"),
        (segmentation, {"protocol": "score"}, "config.protocol='score', which is unknown"),
        (segmentation, {"recognizer": "compact"}, "leave it empty for segmentation"),
        (segmentation, {"benchmarks": ()}, "config.benchmarks is empty: name what is scored"),
        (super_resolution, {"train.labels": 1.5}, "config.train.labels=1.5: give a share"),
        (super_resolution, {"train.source": ("a", "b")}, "must be one set of words"),
        (super_resolution, {"train.steps": 0}, "config.train.steps=0 is out of range"),
        (super_resolution, {"train.batch_size": 9}, "cannot be divided over 4 devices"),
        (super_resolution, {"head.width": -1}, "config.head.width=-1 is out of range"),
    ],
)
def test_mistakes_name_field_and_remedy(module, change: dict[str, Any], message: str) -> None:
    config = module.get_config("test")
    config.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=message):
        dense_plan(config, devices=4)


def test_heads_that_cannot_be_and_networks_that_are_not_there(tmp_path: Path) -> None:
    encoder: Any = SimpleNamespace(image_size=(32, 128), origin={"architecture": "vit"})
    with pytest.raises(ConfigError, match="config.head.width=9 is not divisible by the 2 att.*10"):
        make_head("segmentation", encoder, width=9)
    encoder.origin["architecture"] = "compact"
    with pytest.raises(ConfigError, match="config.head.depth=2: a segmentation head for a conv"):
        make_head("segmentation", encoder, depth=2)
    with pytest.raises(ConfigError, match="holds no network of a dense task: give the --workdir"):
        load_network(tmp_path)
