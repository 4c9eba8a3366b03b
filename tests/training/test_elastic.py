"""A run goes on with another number of devices, in one process; test_hosts.py has real ones."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.training.build import build_model
from tests.training.tiny_step import make_config, make_plan, make_state, make_step, to_double

# Queue, optimiser and momentum branch; all else would only be compiled longer.
CHANGES = {
    "model.encoder": "vit",
    "model.image_width": 16,
    "model.depth": 1,
    "model.heads": 1,
    "contrast.hierarchies": ("word",),
    "contrast.pairs": (),
    "rearrange.enabled": False,
    "mim.enabled": False,
    "total_images": 24,
}


def test_four_devices_then_two_then_one_learn_what_one_learns(tmp_path, monkeypatch) -> None:
    config = make_config(**CHANGES)
    plan = make_plan(config)
    start = make_state(config, build_model(plan))
    position = DataPosition("images", config.seed, config.batch_size)
    rng = np.random.default_rng(0)
    batches = [
        {
            "image": rng.uniform(-1, 1, (config.batch_size, *plan.model.image_size, 3)),
            "index": np.arange(config.batch_size) + config.batch_size * number,
        }
        for number in range(3)
    ]
    everything = jax.local_devices()

    def run(name: str, devices: tuple[int, ...]) -> tuple[dict[str, np.ndarray], list[float]]:
        """A step on each of these numbers of devices, through a checkpoint; state and losses."""
        losses = []
        with Checkpoints(tmp_path / name) as checkpoints:
            state = to_double(start)
            for number, (count, batch) in enumerate(zip(devices, batches, strict=True), 1):
                monkeypatch.setattr(jax, "local_devices", lambda n=count: everything[:n])
                monkeypatch.setattr(jax, "local_device_count", lambda n=count: n)
                many, metrics = step(parallel.replicate(state), parallel.shard_batch(batch))
                assert len(many.step.sharding.device_set) == count
                losses.append(float(parallel.unreplicate(dict(metrics))["loss"]))
                checkpoints.save(number, parallel.unreplicate(many), plan.config, position)
                checkpoints.wait()
                restored = checkpoints.restore(state, position)
                assert restored is not None and restored.step == number
                state = restored.state
            return checkpoints.read()[2], losses

    with jax.enable_x64(True):
        step = parallel.pmap_step(make_step(config, parallel.AXIS))
        fewer, losses = run("fewer", (4, 2, 1))
        alone, expected = run("alone", (1, 1, 1))
    assert losses == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == 3
    for name, array in alone.items():
        np.testing.assert_allclose(fewer[name], array, rtol=1e-7, atol=1e-9, err_msg=name)
