"""Pretraining that begins with the weights of another run instead of drawn ones."""

from __future__ import annotations

import dataclasses
import fnmatch
import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array

from rcmstr_jax.models.rcmstr import FROZEN_PARTS, MOMENTUM_PARTS
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.digest import leaf_name, misfits
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.weights import RunWeights, read_weights
from rcmstr_jax.training.state import PretrainState, select_parts

Reader = Callable[[str], RunWeights]
logger = logging.getLogger(__name__)


def weights_of(field: str, run: str, read: Reader = read_weights) -> RunWeights:
    """The weights that a field of the config names.

    Raises:
      ConfigError: there is no checkpoint, or a file that cannot be read, naming the field.
    """
    try:
        return read(run)
    except (CheckpointError, ValueError) as error:
        raise ConfigError(f"{field}: {error}") from error


def warm_start(
    state: PretrainState,
    run: str,
    may_differ: Sequence[str] = (),
    read: Reader = read_weights,
) -> PretrainState:
    """The state with another run's parameters and running statistics, both branches alike.

    Optimiser, queues, keys and step are those of a fresh run.

    Args:
      state: a fresh one.
      run: workdir of a pretraining run, or `DIR@STEP`, or what else `read` knows; empty leaves the
        state as it is.
      may_differ: patterns of names whose arrays may be missing, unexpected or of another shape, as
        in `params/predictors/*`; those of the network are then left as they were drawn.
      read: finds the weights.

    Raises:
      ConfigError: there is nothing to read, or other names differ.
    """
    if not run:
        return state
    field = f"config.init_from={run}"
    weights = weights_of(field, run, read)
    own = {"params": {**state.params, **state.frozen_params}, "batch_stats": state.batch_stats}
    differing = misfits(weights.variables, own)
    wrong = [line for line in differing if not _matches(line.split(" is ")[0], may_differ)]
    if wrong:
        parts = tuple(sorted({"/".join(line.split("/")[:2]) + "/*" for line in wrong}))
        raise ConfigError(
            f"{field}: {len(wrong)} arrays differ from the network's: {'; '.join(wrong[:6])}. Name "
            f'what may differ, all of it by --config.init_may_differ="{parts}"'
        )
    for line in differing:
        logger.warning("left as it was drawn, or not taken: %s", line)
    leaves = jax.tree_util.tree_leaves_with_path(weights.variables)
    found = {leaf_name(path): np.asarray(leaf) for path, leaf in leaves}

    def take(path: tuple[object, ...], drawn: Array) -> Array | np.ndarray:
        array = found.get(leaf_name(path))
        fits = array is not None and array.shape == drawn.shape
        return np.asarray(array, drawn.dtype) if fits else drawn

    new = jax.tree_util.tree_map_with_path(take, own)
    online = {name: tree for name, tree in new["params"].items() if name not in FROZEN_PARTS}
    logger.info("weights of %s after step %d", run, weights.step)
    return dataclasses.replace(
        state,
        params=online,
        frozen_params=select_parts(new["params"], FROZEN_PARTS),
        momentum_params=jax.tree.map(np.copy, select_parts(online, MOMENTUM_PARTS)),
        batch_stats=new["batch_stats"],
        momentum_batch_stats=jax.tree.map(np.copy, new["batch_stats"]),
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
