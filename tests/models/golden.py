"""Reads golden state dicts (PyTorch names and layout) into the trees of our modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

STATISTICS = {"running_mean": "mean", "running_var": "var"}
NORMS = {"weight": "scale", "bias": "bias"}


def load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a golden file, floating ones in float64."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    return {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()}


def channels_last(x: np.ndarray) -> np.ndarray:
    """(batch, channels, height, width) -> (batch, height, width, channels)."""
    return np.moveaxis(x, 1, -1)


def resnet_variables(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """`params` and `batch_stats` of the convolutions and norms named with `prefix`."""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, value in arrays.items():
        if not name.startswith(prefix) or name.endswith("num_batches_tracked"):
            continue
        *path, leaf = name.removeprefix(prefix).split(".")
        path = module_path(path)
        if value.ndim == 4:
            collection, leaf, value = "params", "kernel", value.transpose(2, 3, 1, 0)
        elif leaf in STATISTICS:
            collection, leaf = "batch_stats", STATISTICS[leaf]
        else:
            collection, leaf = "params", NORMS[leaf]
        node = variables[collection]
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return variables


def module_path(path: list[str]) -> list[str]:
    """['layer1', '0', 'downsample', '1'] -> ['layer1_0', 'downsample_bn']."""
    if "downsample" in path:
        at = path.index("downsample")
        path = [*path[:at], "downsample_" + ("conv", "bn")[int(path[at + 1])]]
    if len(path) > 1 and path[1].isdigit():
        path = [f"{path[0]}_{path[1]}", *path[2:]]
    return path
