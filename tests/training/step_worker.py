"""A process of the tests that compare numbers of devices and hosts: a few steps in float64.

  python step_worker.py --workdir=DIR --images=DIR --until=STEP [--views]
    [--hosts=N --host=I --port=P]

Continues from the newest checkpoint in the workdir, on the devices that XLA_FLAGS gives it, and
saves one after every step, with the metrics of that step beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rcmstr_jax.data.pipeline import train_batches  # noqa: E402
from rcmstr_jax.data.sources import open_source  # noqa: E402
from rcmstr_jax.runtime import parallel  # noqa: E402
from rcmstr_jax.runtime.checkpoint import Checkpoints  # noqa: E402
from rcmstr_jax.runtime.distributed import connect  # noqa: E402
from rcmstr_jax.runtime.provenance import DataPosition  # noqa: E402
from rcmstr_jax.training.build import build_model  # noqa: E402
from tests.training.tiny_step import (  # noqa: E402
    make_config,
    make_plan,
    make_state,
    make_step,
    to_double,
)

CHANGES = {"model.blocks": (0, 0, 1, 0), "total_images": 24}  # one residual block stands for nine


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--until", type=int, required=True)
    parser.add_argument("--views", action="store_true")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--host", type=int, default=0)
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    if args.hosts > 1:
        connect("flags", f"127.0.0.1:{args.port}", args.hosts, args.host)
    jax.config.update("jax_enable_x64", True)
    config = make_config(**CHANGES, **{"views.enabled": args.views})
    plan = make_plan(config)
    with jax.enable_x64(False):
        state = make_state(config, build_model(plan))
    lagging = jax.tree.map(lambda x: 0.8 * x + 0.01, state.momentum_params)
    state = to_double(dataclasses.replace(state, momentum_params=lagging))
    position = DataPosition("images", config.seed, config.batch_size)
    args.workdir.mkdir(exist_ok=True)
    with Checkpoints(args.workdir, keep=9) as checkpoints:
        restored = checkpoints.restore(state, position)
        start, state = (restored.step, restored.state) if restored else (0, state)
        batches = train_batches(
            open_source(f"folder:{args.images}"),
            batch_size=config.batch_size,
            image_size=plan.model.image_size,
            seed=config.seed,
            start_step=start,
            host_index=args.host,
            host_count=args.hosts,
        )
        step = parallel.pmap_step(make_step(config, parallel.AXIS))
        state = parallel.replicate(state)
        for number in range(start + 1, args.until + 1):
            batch = next(batches)
            # Pixels in float64 too: targets are normalised from them.
            batch["image"] = batch["image"] / 127.5 - 1.0
            state, metrics = step(state, parallel.shard_batch(batch))
            checkpoints.save(number, parallel.unreplicate(state), plan.config, position)
            numbers = {k: float(v) for k, v in parallel.unreplicate(dict(metrics)).items()}
            if args.host == 0:
                (args.workdir / f"metrics-{number}.json").write_text(json.dumps(numbers))
        checkpoints.wait()


if __name__ == "__main__":
    main()
