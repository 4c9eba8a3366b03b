"""What another project needs of a finished run: its config and its network's arrays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.runtime.checkpoint import CheckpointError, Checkpoints
from rcmstr_jax.runtime.digest import named_arrays, nested
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.state import PretrainState


def load_pretrained(
    workdir: str | Path, branch: str = "online"
) -> tuple[ConfigDict, dict[str, Any], dict[str, Any]]:
    """Config, parameters and running statistics of a pretraining run, for evaluation.

    Args:
      workdir: the run's --workdir.
      branch: "online" or "momentum".

    Returns:
      `(config, params, batch_stats)`, arrays on the host.

    Raises:
      ValueError: on an unknown branch.
      CheckpointError: if there is no readable checkpoint.
    """
    if branch not in ("online", "momentum"):
        raise ValueError(f"branch={branch!r}; use 'online' or 'momentum'")
    prefix = "" if branch == "online" else "momentum_"
    with Checkpoints(workdir, read_only=True) as checkpoints:
        _, config, arrays = checkpoints.read()
    params = {**nested(arrays, f"{prefix}params"), **nested(arrays, "frozen_params")}
    return config, params, nested(arrays, f"{prefix}batch_stats")


def with_rectifier(state: PretrainState, workdir: str) -> PretrainState:
    """The state with the frozen rectifier of another workdir, for example a converted one.

    Args:
      state: a fresh state whose network has a rectifier.
      workdir: as `launch/convert_weights.py` writes it; empty leaves the state as it is.

    Raises:
      ConfigError: if there is no checkpoint, or its rectifier has other parts or sizes.
    """
    if not workdir:
        return state
    field = f"config.model.rectifier_from={workdir}"
    try:
        _, params, stats = load_pretrained(workdir)
    except CheckpointError as error:
        raise ConfigError(f"{field}: {error}") from error
    found = {"params": params.get("rectifier", {}), "statistics": stats.get("rectifier", {})}
    own = {
        "params": state.frozen_params["rectifier"],
        "statistics": state.batch_stats["rectifier"],
    }
    shapes, needed = (
        {name: array.shape for name, array in named_arrays(tree).items()} for tree in (found, own)
    )
    wrong = [
        f"{name} is {shapes.get(name, 'missing')}, needs {needed.get(name, 'nothing')}"
        for name in sorted(shapes.keys() | needed.keys())
        if shapes.get(name) != needed.get(name)
    ]
    if wrong:
        raise ConfigError(
            f"{field} holds no rectifier that fits: {'; '.join(wrong[:6])}. Convert one with "
            "launch/convert_weights.py --kind=tps"
        )
    new = jax.tree.map(lambda a, b: np.asarray(a, b.dtype), found, own)
    statistics = {"rectifier": new["statistics"]}
    return dataclasses.replace(
        state,
        frozen_params={"rectifier": new["params"]},
        batch_stats={**state.batch_stats, **statistics},
        momentum_batch_stats={**state.momentum_batch_stats, **statistics},
    )
