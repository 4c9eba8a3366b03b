"""Loading an encoder: parameters and statistics, the random twin, and what does not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.recognition.encoders import (
    load_encoder,
    planned_encoder,
    random_encoder,
    split_pretrained,
)
from rcmstr_jax.recognition.features import calibrate_statistics, extract_features
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.config_files import write_config
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.plan import evaluation_plan, pretrain_plan
from rcmstr_jax.training.state import PretrainState, fresh_state

PRETRAIN = pretrain_plan(mini.get_config("test"))
EVALUATE = evaluation_plan(common.get_config())


@pytest.fixture(scope="module")
def start() -> PretrainState:
    """The state that pretraining begins with."""
    return fresh_state(PRETRAIN, build_model(PRETRAIN), optax.sgd(0.1))


@pytest.fixture(scope="module")
def workdir(start: PretrainState, tmp_path_factory) -> Path:
    """A run whose weights and statistics have moved away from their start."""
    folder = tmp_path_factory.mktemp("run")
    moved = start.replace(
        params=jax.tree.map(lambda x: x + 0.01, start.params),
        batch_stats=jax.tree.map(lambda x: x * 1.5 + 0.1, start.batch_stats),
        momentum_params=jax.tree.map(lambda x: x - 0.01, start.momentum_params),
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(5, moved, PRETRAIN.config, DataPosition("words", 0, 8))
    write_config(PRETRAIN.config, folder)
    return folder


def assert_equal_trees(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_random_twin_is_what_pretraining_starts_from(start, workdir) -> None:
    encoder = load_encoder(f"random:{workdir}")
    assert_equal_trees(encoder.params, {"encoder": start.params["encoder"]})
    assert_equal_trees(encoder.batch_stats, {"encoder": start.batch_stats["encoder"]})
    assert encoder.origin["source"] == "random" and encoder.origin["of"] == str(workdir)


def test_parameters_and_running_statistics_are_both_restored(start, workdir) -> None:
    encoder = load_encoder(str(workdir))
    assert_equal_trees(
        encoder.params["encoder"], jax.tree.map(lambda x: x + 0.01, start.params["encoder"])
    )
    assert_equal_trees(
        encoder.batch_stats["encoder"],
        jax.tree.map(lambda x: x * 1.5 + 0.1, start.batch_stats["encoder"]),
    )
    assert encoder.origin["step"] == 5 and encoder.origin["branch"] == "online"
    # Inference: a word's frames do not depend on its neighbours, and do on the statistics.
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 100, 3)).astype(np.uint8)
    plan = dataclasses.replace(EVALUATE, eval_batch_size=4)
    together = extract_features(encoder, images, plan)
    alone = extract_features(encoder, images[:1], plan)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)
    fresh = encoder.infer(encoder.params, jax.tree.map(jnp.asarray, start.batch_stats), images)
    assert not np.allclose(together, fresh, rtol=1e-2)
    halved = dataclasses.replace(plan.train, feature_dtype="float16")
    half = extract_features(encoder, images, dataclasses.replace(plan, train=halved))
    np.testing.assert_allclose(half, together, rtol=2e-3, atol=2e-3)
    assert half.dtype == np.float16


def test_the_momentum_branch(start, workdir) -> None:
    plan = dataclasses.replace(EVALUATE, branch="momentum")
    encoder = planned_encoder(str(workdir), plan)
    expected = jax.tree.map(lambda x: x - 0.01, start.momentum_params["encoder"])
    assert_equal_trees(encoder.params["encoder"], expected)
    config = common.get_config()
    config.branch = "both"
    with pytest.raises(ConfigError, match="branch='both'.*online.*momentum"):
        evaluation_plan(config)


def test_calibration_changes_statistics_alone_and_normalises() -> None:
    encoder = random_encoder(PRETRAIN.config["model"], seed=0)
    images = np.random.default_rng(1).integers(0, 80, (40, 32, 100, 3)).astype(np.uint8)
    plan = dataclasses.replace(EVALUATE, eval_batch_size=16, seed=0)
    calibrated = calibrate_statistics(encoder, images, plan)
    assert_equal_trees(calibrated.params, encoder.params)
    batch, _ = encoder.train(encoder.params, encoder.batch_stats, images)
    raw = extract_features(encoder, images, plan)
    tuned = extract_features(calibrated, images, plan)
    far = np.abs(raw - np.asarray(batch)).mean()
    assert np.abs(tuned - np.asarray(batch)).mean() < 0.5 * far
    again = calibrate_statistics(encoder, images, plan)
    assert_equal_trees(again.batch_stats, calibrated.batch_stats)
    assert "50 batches of 16" in calibrated.origin["statistics"]


def test_a_network_without_statistics_is_left_alone() -> None:
    plan = pretrain_plan(mini.get_config("vit"))
    encoder = random_encoder(plan.config["model"], seed=0)
    assert not jax.tree.leaves(encoder.batch_stats)
    images = np.zeros((2, 32, 128, 3), np.uint8)
    assert calibrate_statistics(encoder, images, EVALUATE) is encoder
    assert extract_features(encoder, images, EVALUATE).shape == (2, 32, 64)


def test_spellings_of_pretrained() -> None:
    assert split_pretrained("random") == (True, "")
    assert split_pretrained("random:runs/a") == (True, "runs/a")
    assert split_pretrained("runs/random") == (False, "runs/random")


def test_no_workdir_of_a_run(tmp_path) -> None:
    with pytest.raises(ValueError, match="config.json is missing.*--workdir of launch/pretrain.py"):
        load_encoder(str(tmp_path))


def test_a_checkpoint_of_another_architecture(workdir, tmp_path) -> None:
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["width"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
    with pytest.raises(ValueError, match=r"does not fit.*/encoder/bn0_1.* is \(1,\), needs \(2,\)"):
        load_encoder(str(tmp_path))
