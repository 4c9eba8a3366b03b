"""Converted weights as the workdir of a run, so that evaluation takes them like its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.interop.torch_weights import unflatten
from rcmstr_jax.runtime.checkpoint import Checkpoints, DataPosition
from rcmstr_jax.runtime.config_files import write_config


def model_config(
    config: ConfigDict, settings: Mapping[str, Any], flat: Mapping[str, np.ndarray]
) -> None:
    """Sets the fields of a pretraining config that imported weights decide, in place.

    Args:
      config: complete config of the encoder's family.
      settings: fields of the `model` section.
      flat: imported arrays; projector, predictors and queues tell their sizes.
    """
    config.model.update(settings)
    config.mim.enabled = any(path.startswith("params/reconstruction/") for path in flat)
    recurrent = flat.get("params/projector/layer_0/forward_weight_hh")
    if recurrent is not None:
        config.model.projector, config.model.projector_hidden = "bilstm", recurrent.shape[0]
    heads = {
        path.split("/")[2]: array.shape[1]
        for path, array in flat.items()
        if path.startswith("params/predictors/") and path.endswith("/kernel")
    }
    if heads:
        names = [name for name in ("frame", "subword", "word") if name in heads]
        config.model.predict_dim = heads[names[0]]
        config.contrast.hierarchies = tuple(names)
        pairs = [f"{fine}_{coarse}" for fine, coarse in zip(names, names[1:], strict=False)]
        config.contrast.pairs = tuple(p for p in pairs if p in ("frame_subword", "subword_word"))
    sizes = [a.shape[0] for path, a in flat.items() if path.endswith("/keys")]
    if sizes:
        config.contrast.queue_size = max(sizes)


def write_workdir(
    folder: Path, flat: Mapping[str, np.ndarray], config: ConfigDict, *, origin: str
) -> None:
    """Writes `config.json` and a checkpoint of step 0 that holds the arrays."""
    write_config(config, folder)
    position = DataPosition(source=f"converted from {origin}", seed=0, batch_size=0)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(0, unflatten(flat), config, position)


def read_workdir(folder: Path) -> dict[str, np.ndarray]:
    """Flat arrays of a run's newest checkpoint.

    Raises:
      CheckpointError: if there is none.
    """
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.read()[2]
