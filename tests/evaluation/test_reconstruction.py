"""Reconstruction of held-out words: the figures by hand, and the launcher from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.pretrain import mim
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.evaluation import reconstruction
from rcmstr_jax.runtime.checkpoint import CheckpointError, Checkpoints
from rcmstr_jax.runtime.config_files import write_config
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.ssl.reconstruction import patch_targets
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from rcmstr_jax.training.state import fresh_state
from rcmstr_jax.training.step_inputs import draw_masks

PATCH = (8, 4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise: no patch of it is of one colour."""
    return np.random.default_rng(0).integers(0, 256, (7, 32, 20, 3), np.uint8)


def plan(**changes: Any) -> PretrainPlan:
    config = mim.get_config("cnn")
    config.model.image_width, config.model.width = 20, 64
    config.update_from_flattened_dict(changes)
    return pretrain_plan(config)


def score(images: np.ndarray, predict: Any, batch_size: int = 7) -> reconstruction.Score:
    return reconstruction.make_scorer(plan(), batch_size=batch_size, predict=predict)({}, images)


def test_truth_scores_nothing_and_the_mean_a_little_below_one(images: np.ndarray) -> None:
    perfect = score(images, lambda _, x, mask: patch_targets(x, PATCH))
    assert perfect.words == 7
    np.testing.assert_allclose([perfect.loss, perfect.explained], [0, 1], atol=1e-6)
    mean = score(images, lambda _, x, mask: 0 * patch_targets(x, PATCH))
    # Of 32 pixels with the unbiased deviation: 31 / 32.
    np.testing.assert_allclose([mean.loss, mean.column_loss, mean.patch_mean], 31 / 32, rtol=1e-5)
    assert mean.explained == pytest.approx(0, abs=1e-6)
    half = score(images, lambda _, x, mask: 0.5 * patch_targets(x, PATCH))
    np.testing.assert_allclose([half.loss, half.explained], [31 / 128, 0.75], rtol=1e-5)


def test_only_hidden_patches_count(images: np.ndarray) -> None:
    def predict(_: Any, x: Any, mask: Any) -> Any:
        return patch_targets(x, PATCH) + jnp.where(mask[..., None], 0.0, 9.0)

    assert score(images, predict).loss == pytest.approx(0, abs=1e-6)


def test_columns_without_a_visible_patch_stand_apart(images: np.ndarray) -> None:
    def predict(_: Any, x: Any, mask: Any) -> Any:
        return patch_targets(x, PATCH) + jnp.where(mask.all(1)[:, None, :, None], 2.0, 0.0)

    found = score(images, predict)
    assert found.column_loss == pytest.approx(4, rel=1e-6)
    assert 0 < found.loss < 4
    block = reconstruction.with_masks(plan(), "block", 0.4)
    alone = reconstruction.make_scorer(block, batch_size=7, predict=predict)({}, images)
    assert alone.loss == alone.column_loss == pytest.approx(4, rel=1e-6)


def test_batch_size_does_not_move_the_score(images: np.ndarray) -> None:
    """The masks go with the words, and the words that fill the last batch do not count."""

    def predict(_: Any, x: Any, mask: Any) -> Any:
        return patch_targets(x, PATCH) * mask.mean((1, 2), keepdims=True)[..., None] ** 2

    whole, parts = score(images, predict), score(images, predict, batch_size=3)
    assert parts.words == 7
    np.testing.assert_allclose(
        [whole.loss, whole.patch_mean, whole.explained],
        [parts.loss, parts.patch_mean, parts.explained],
        rtol=1e-5,
    )


def test_raw_predictions_are_scored_like_normalised_ones(images: np.ndarray) -> None:
    raw = plan(**{"mim.normalize_targets": False})

    def predict(_: Any, x: Any, mask: Any) -> Any:
        return patch_targets(x, PATCH, normalize=False)

    found = reconstruction.make_scorer(raw, batch_size=7, predict=predict)({}, images)
    assert found.loss == pytest.approx(0, abs=1e-6)


def test_kinds_hide_alike() -> None:
    masks = {
        kind: draw_masks(
            reconstruction.mask_of(reconstruction.with_masks(plan(), kind, 0.6)),
            jax.random.key(0),
            jnp.arange(5),
        )
        for kind in ("patch_block", "patch", "block")
    }
    assert {kind: int(mask[0].sum()) for kind, mask in masks.items()} == dict.fromkeys(masks, 12)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a ViT after no step at all."""
    workdir = tmp_path_factory.mktemp("run")
    config = mim.get_config("vit")
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    plan = pretrain_plan(config)
    optimizer, _ = make_optimizer(plan.optimizer)
    state = fresh_state(plan, build_model(plan), optimizer)
    with Checkpoints(workdir) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, config, DataPosition("test", 0, config.batch_size))
    write_config(config, workdir)
    return workdir


def test_launcher_writes_numbers_and_pictures(run: Path, tmp_path: Path, repository: Path) -> None:
    random = np.random.default_rng(1)
    records = [
        Record(cv2.imencode(".png", random.integers(0, 256, (32, 90, 3)))[1].tobytes(), None, "t")
        for _ in range(4)
    ]
    write_lmdb(tmp_path / "words", [*records, Record(b"no image", None, "t")])
    out = tmp_path / "out"
    command = [
        f"--pretrained={run}",
        f"--source=lmdb:{tmp_path / 'words'}",
        f"--workdir={out}",
        "--kinds=block",
        "--all_checkpoints",
    ]
    done = subprocess.run(
        [sys.executable, str(repository / "launch/reconstruct.py"), *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "reconstruction.json").read_text())["rows"]
    assert [(row["masks"], row["step"], row["words"]) for row in rows] == [
        ("block", 1, 4),
        ("block", 2, 4),
    ]
    for row in rows:
        # 16 pixels a patch. An untrained network is no better than the mean.
        assert row["patch_mean"] == pytest.approx(15 / 16, rel=1e-3)
        assert row["loss"] > row["patch_mean"]
        assert f"{row['loss']:.4f}" in done.stdout
    for name in ("words-block.png", "curves.png", "faults.json"):
        assert (out / name).stat().st_size > 0


def test_endless_words_are_refused() -> None:
    with pytest.raises(ValueError, match="never ends: give it a size"):
        reconstruction.load_images(
            open_source("synthetic"), plan(), words=2, seed=0, faults=FaultLog(None)
        )


def test_checkpoint_that_is_not_there_is_named(run: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoints/7 is unreadable"):
        reconstruction.load_network(run, 7)
