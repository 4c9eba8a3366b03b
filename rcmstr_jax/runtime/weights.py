"""Weights of a workdir: the one place that knows how a run's checkpoint names its branches."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.digest import nested
from rcmstr_jax.runtime.errors import ConfigError

# Branches of a pretraining run and what their arrays' names begin with.
BRANCHES = {"online": "", "momentum": "momentum_"}


@dataclasses.dataclass(frozen=True)
class RunWeights:
    """What a pretraining run has learnt, arrays on the host.

    Attributes:
      step: of the checkpoint.
      config: the resolved config that it was trained with, JSON-ready.
      params: of the network, frozen parts among them.
      batch_stats: running statistics; empty for a network without.
    """

    step: int
    config: dict[str, Any]
    params: dict[str, Any]
    batch_stats: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """As Flax modules take them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def split_step(folder: str | Path) -> tuple[str, int | None]:
    """Reads `DIR@STEP`, the checkpoint of one step; `DIR` stands for the newest."""
    found = re.fullmatch(r"(.+)@(\d+)", str(folder))
    return (found[1], int(found[2])) if found else (str(folder), None)


def read_weights(
    workdir: str | Path, *, step: int | None = None, branch: str = "online"
) -> RunWeights:
    """Config, parameters and running statistics of a pretraining run.

    Args:
      workdir: the run's --workdir, or `DIR@STEP`.
      step: of the checkpoint; the newest readable one by default.
      branch: "online" or "momentum".

    Raises:
      ConfigError: on an unknown branch.
      CheckpointError: if there is no readable checkpoint.
    """
    if branch not in BRANCHES:
        raise ConfigError(f"config.branch={branch!r}: choose one of {', '.join(BRANCHES)}")
    folder, named = split_step(workdir)
    with Checkpoints(folder, read_only=True) as checkpoints:
        found, config, arrays = checkpoints.read(named if step is None else step)
    prefix = BRANCHES[branch]
    params = {**nested(arrays, f"{prefix}params"), **nested(arrays, "frozen_params")}
    return RunWeights(found, config, params, nested(arrays, f"{prefix}batch_stats"))
