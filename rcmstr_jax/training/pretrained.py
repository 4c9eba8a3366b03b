"""What another project needs of a finished run: its config and its network's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rcmstr_jax.training.checkpoint import Checkpoints
from rcmstr_jax.training.digest import nested


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
