"""Weights that pretraining may begin with: those of a run, or a file of any kind that is known."""

from __future__ import annotations

import re
from pathlib import Path

from rcmstr_jax.interop.files import read_arrays
from rcmstr_jax.interop.kinds import KINDS, import_checkpoint
from rcmstr_jax.interop.torch_weights import WeightMismatch, unflatten
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.weights import RunWeights, read_weights

# A kind's file has a name like this; of several the first one counts.
_TOLD_BY = {
    "rclstr": r"(module\.)?encoder_q\..*",
    "trba": r"(module\.)?Prediction\.attention_cell\..*",
    "trbc": r"(module\.)?Prediction\..*",
    "vit": r"(.*\.)?patch_embed\.proj\.weight",
    "resnet": r"(.*\.)?conv0_1\.weight",
    "tps": r"(module\.)?Transformation\..*",
}


def read_start(place: str) -> RunWeights:
    """Weights of a pretraining run, or of a file as `launch/convert_weights.py` reads them.

    Args:
      place: `DIR`, `DIR@STEP`, or a file (.npz, .safetensors, PyTorch) with our names, as a folder
        of weights has them, or with the published ones of a kind.

    Raises:
      CheckpointError: there is no checkpoint.
      ValueError: the file cannot be read, or is of no kind that is known.
    """
    if not Path(place).is_file():
        return read_weights(place)
    arrays = read_arrays(place)
    if not any(re.match("(params|encoder)/", name) for name in arrays):
        kind = next(
            (k for k, p in _TOLD_BY.items() if any(re.fullmatch(p, name) for name in arrays)), None
        )
        if kind is None:
            raise ConfigError(
                f"{place} is of no kind that is known ({', '.join(_TOLD_BY)}): it holds "
                f"{', '.join(list(arrays)[:4])}"
            )
        try:
            arrays, _ = import_checkpoint(KINDS[kind], arrays, where=place)
        except WeightMismatch as error:
            raise ConfigError(
                f"{error}; do that in launch/convert_weights.py --kind={kind} --waive=..., and "
                "give the folder that it writes"
            ) from error
    tree = unflatten(arrays)
    if "encoder" in tree:  # of a recogniser
        recognizer = tree["encoder"]
        tree = {**recognizer, "params": {**recognizer["params"], "decoder": tree["decoder"]}}
    params = {**tree.get("params", {}), **tree.get("frozen_params", {})}
    return RunWeights(0, {}, params, tree.get("batch_stats", {}))
