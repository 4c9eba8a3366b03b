"""The whole main with few images: what a run leaves, and that an interruption changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.checkpoint import CheckpointMismatch, Checkpoints
from rcmstr_jax.runtime.command_line import one_line_errors
from rcmstr_jax.runtime.compilation import enable_compilation_cache
from rcmstr_jax.runtime.digest import state_digest
from rcmstr_jax.runtime.errors import EXIT_FAILED, ConfigError
from rcmstr_jax.runtime.skipped import TrainingDiverged
from rcmstr_jax.training import loop
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.loop import Outcome
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import pretrain_plan
from rcmstr_jax.training.pretraining import pretrain
from rcmstr_jax.training.state import PretrainState, fresh_state
from rcmstr_jax.training.warm_start import warm_start


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of 24 noisy words."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        image = rng.integers(0, 80, (32, 100, 3), np.uint8)
        cv2.putText(image, f"w{i}", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


def tiny(images: Path) -> ConfigDict:
    """The smallest run that has every kind of state: a one-block ViT, and a queue."""
    config = mini.get_config("test")
    config.model.update({"encoder": "vit", "width": 16, "depth": 1, "heads": 1, "image_width": 32})
    config.model.projector = "mlp"
    config.contrast.hierarchies = ("subword",)
    config.contrast.pairs = ()
    config.contrast.queue_size = 64
    config.contrast.chunk = 64
    config.views.enabled = False
    config.mim.enabled = False
    config.total_images = 4 * config.batch_size
    # Nothing in the compiled step depends on the length of the run: all tests share one program.
    config.optimizer.schedule = "constant"
    config.data.source = (f"folder:{images}",)
    config.data.prefetch = 0
    config.compilation_cache = "off"  # that of the test session stays
    config.picture_every = -1
    return config.lock()


@pytest.fixture
def config(images) -> ConfigDict:
    """A fresh config that a test may change."""
    return tiny(images)


def metric_lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory) -> tuple[Path, Outcome]:
    """An uninterrupted run; do not write into its workdir, copy it."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, pretrain(tiny(images), workdir)


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A workdir that holds the finished run, to be continued."""
    return shutil.copytree(whole[0], tmp_path / "copied")


def test_what_a_run_leaves_behind(whole):
    workdir, outcome = whole
    assert (outcome.step, outcome.finished) == (4, True)
    left = {path.name.split(".")[0] for path in workdir.iterdir()}
    assert left >= {
        "config", "log", "parameters", "metrics", "speed", "events", "checkpoints", "state_digest",
    }  # fmt: skip
    lines = metric_lines(workdir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "accuracy/subword", "key_variance/subword", "relation_entropy/subword"} <= set(
        lines[0]
    )
    assert {"grad_norm", "update_norm", "learning_rate", "momentum", "skipped"} <= set(lines[0])
    speed = json.loads((workdir / "speed.jsonl").read_text().splitlines()[-1])
    assert {
        "speed/words_per_second", "speed/words_per_second_and_device",
        "speed/share_waiting_for_data",
    } <= set(speed)  # fmt: skip
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert (workdir / "state_digest.txt").read_text() == f"{outcome.digest}  step 4\n"
    log = (workdir / "log.txt").read_text().splitlines()
    assert any("compiling" in line for line in log)
    assert log[-1].endswith(f"state digest {outcome.digest}")
    assert json.loads((workdir / "config.json").read_text())["total_images"] == 32
    assert "encoder" in (workdir / "parameters.txt").read_text()


class Unread:
    """A metric that has no value: only the thread that measures waiting may wait for it."""

    def block_until_ready(self):
        assert threading.current_thread() is not threading.main_thread()


def test_steps_compile_once_reuse_their_state_and_are_not_waited_for(
    config, whole, tmp_path, monkeypatch
):
    """Batches lie on all devices, and nothing is read or moved between two log steps."""
    pmap_step, compiled, steps = parallel.pmap_step, [], []

    def note(event: str, seconds: float, **_: object) -> None:
        compiled.extend([event] * (event == "/jax/core/compile/backend_compile_duration"))

    def watched(function):
        step = pmap_step(function)

        def lower(*arguments):
            return SimpleNamespace(compile=lambda: watch(step.lower(*arguments).compile()))

        return SimpleNamespace(lower=lower)

    def watch(step):
        def run(state, batch, constants):
            for rows in batch.values():
                assert [shard.device for shard in rows.addressable_shards] == jax.local_devices()
                assert rows.shape[:2] == (jax.local_device_count(), 2)
            if not steps:
                assert compiled
                compiled.clear()
            with jax.transfer_guard("disallow"):
                after, metrics = step(state, batch, constants)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
            steps.append(len(steps) + 1)
            read = len(steps) == config.log_every
            return after, metrics if read else dict.fromkeys(metrics, Unread())

        return run

    monkeypatch.setattr(parallel, "pmap_step", watched)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        config.log_every = config.checkpoint_every = 4
        assert pretrain(config, tmp_path).digest == whole[1].digest
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert steps == [1, 2, 3, 4] and not compiled


def test_interrupted_equals_uninterrupted(config, whole, tmp_path, monkeypatch):
    add = loop.SkippedSteps.add

    def with_signal(self, step, metrics):
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, step, metrics)

    monkeypatch.setattr(loop.SkippedSteps, "add", with_signal)
    parts = [pretrain(config, tmp_path) for _ in range(3)]
    assert [(part.step, part.finished) for part in parts] == [(1, False), (3, False), (4, True)]
    assert parts[-1].digest == whole[1].digest
    for name in ("metrics.jsonl", "state_digest.txt"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()
    log = (tmp_path / "log.txt").read_text()
    for said in ("SIGINT: saving after step 1 of 4", "continuing after step 1", "SIGTERM: saving"):
        assert said in log


def test_steps_after_the_last_checkpoint_are_computed_again(config, whole, tmp_path, monkeypatch):
    report = loop.Progress.report

    def dies(self, metrics):
        if self._step == 4:
            raise KeyboardInterrupt  # as if killed: no saving
        return report(self, metrics)

    monkeypatch.setattr(loop.Progress, "report", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path)
    monkeypatch.undo()
    assert [line["step"] for line in metric_lines(tmp_path)] == [1, 2, 3]
    # The checkpoint of step 2 is the last; the line of step 3 is replaced by an equal one.
    assert pretrain(config, tmp_path).digest == whole[1].digest
    assert metric_lines(tmp_path) == metric_lines(whole[0])


def test_finished_run_has_nothing_left_to_do(config, copied, whole):
    assert pretrain(config, copied) == whole[1]
    assert len(metric_lines(copied)) == 4


def test_longer_run_continues_a_finished_one_and_says_what_changed(config, copied):
    config.total_images = 5 * config.batch_size
    assert pretrain(config, copied, profile_steps=(5, 9)).step == 5
    assert len(list((copied / "profile").rglob("*.xplane.pb"))) == 1
    assert "total_images was 32, is 40" in (copied / "log.txt").read_text()


def test_gradient_norms_are_logged_and_change_nothing(config, tmp_path, whole):
    config.log_gradients_every = 3
    assert pretrain(config, tmp_path).digest == whole[1].digest
    lines, names = metric_lines(tmp_path), {"gradient/within", "gradient/relations"}
    assert [names <= line.keys() for line in lines] == [False, False, True, False]
    assert all(lines[2][name] > 0 for name in names)


def test_other_architecture_in_the_workdir_is_an_error_before_training(config, copied):
    config.model.width = 32
    with pytest.raises(CheckpointMismatch, match="params/encoder.*is .*needed"):
        pretrain(config, copied)


def test_other_data_in_the_workdir_are_an_error(config, copied, images, tmp_path):
    fewer = shutil.copytree(images, tmp_path / "fewer")
    next(fewer.iterdir()).unlink()
    config.data.source = (f"folder:{fewer}",)
    with pytest.raises(CheckpointMismatch, match="24 records.*23 records"):
        pretrain(config, copied)


def test_unusable_records_are_counted_and_skipped(config, tmp_path, images):
    folder = tmp_path / "images"
    folder.mkdir()
    for place, image in enumerate(sorted(images.iterdir())[:8]):
        content = image.read_bytes()
        (folder / image.name).write_bytes(content[:40] if place == 3 else content)
    config.data.source = (f"folder:{folder}",)
    config.total_images = 2 * config.batch_size
    config.data.cache = True
    assert pretrain(config, tmp_path / "run").finished
    faults = json.loads((tmp_path / "run" / "faults.json").read_text())
    assert faults["total"] == 1


@pytest.mark.parametrize(
    ("field", "value", "answer"),
    [
        ("data.source", ("lmdb:/nowhere",), r"config\.data\.source=.*/nowhere"),
        ("data.source", ("synthetics",), r"config\.data\.source=.*synthetics"),
        ("batch_size", 6, r"config\.batch_size=6"),
    ],
)
def test_mistakes_are_found_before_the_workdir_is_made(config, tmp_path, field, value, answer):
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=answer):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_workdir_that_cannot_be_made(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--workdir=.*cannot be written"):
        pretrain(config, tmp_path / "file" / "run")


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(config, copied, whole, capsys):
    config.total_images, config.log_every, config.checkpoint_every = 12 * 8, 12, 100
    config.max_skipped = 2
    config.optimizer.learning_rate = 1e38
    # As launch/pretrain.py calls it.
    with pytest.raises(SystemExit) as ended, one_line_errors(TrainingDiverged):
        pretrain(config, copied)
    assert ended.value.code == EXIT_FAILED
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: step 8: 3 steps in a row had no finite loss or gradient")
    assert "the first that was not finite: at step 6, key_variance/subword." in error
    with Checkpoints(copied, read_only=True) as checkpoints:
        step, _, arrays = checkpoints.read()
    assert (step, state_digest(arrays)) == (4, whole[1].digest)


def test_compilation_cache_setting(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    try:
        assert enable_compilation_cache("auto") is None  # the test session has set JAX's own
        assert jax.config.jax_compilation_cache_dir == before
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert enable_compilation_cache("auto") == tmp_path / "rcmstr_jax" / "compiled"
        assert enable_compilation_cache("off") is None
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="compilation_cache=.*'off'"):
            enable_compilation_cache(str(tmp_path / "file" / "x"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def fresh_like(config: ConfigDict) -> PretrainState:
    plan = pretrain_plan(config)
    return fresh_state(plan, build_model(plan), make_optimizer(plan.optimizer)[0])


def test_a_warm_start_takes_the_weights_and_nothing_else(config, whole):
    config.seed = 1
    fresh = fresh_like(config)
    warm, learnt = warm_start(fresh, f"{whole[0]}@4"), whole[1].state
    equal(warm.params, learnt.params)
    equal(warm.momentum_params, {part: learnt.params[part] for part in warm.momentum_params})
    for name in ("step", "opt_state", "queues", "key_data"):
        equal(getattr(warm, name), getattr(fresh, name))
    assert warm_start(fresh, "") is fresh


def test_names_that_differ_in_a_warm_start_are_listed_and_can_be_waived(config, whole):
    config.contrast.hierarchies = ("subword", "word")
    fresh, run = fresh_like(config), str(whole[0])
    with pytest.raises(ConfigError, match=r"init_from=.* params/predictors/word/.*init_may_differ"):
        warm_start(fresh, run)
    warm = warm_start(fresh, run, ("params/predictors/word/*",))
    equal(warm.params["predictors"]["word"], fresh.params["predictors"]["word"])
    equal(warm.params["encoder"], whole[1].state.params["encoder"])
    with pytest.raises(ConfigError, match="init_from=/nowhere"):
        warm_start(fresh, "/nowhere")


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)
