"""The smallest step with every loss, in float64, for the tests that compare steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from rcmstr_jax.training.pretrain_step import make_pretrain_step
from rcmstr_jax.training.state import PretrainState, fresh_state

Result = tuple[PretrainState, dict[str, jax.Array]]


def make_config(**changes: Any) -> ConfigDict:
    """The smallest CNN with every loss; views are the images themselves."""
    config = mini.get_config("test")
    config.model.image_width = 20  # 6 frames
    config.model.projector = "mlp"
    config.mim.form = "masked_dense"
    config.views.enabled = False
    config.contrast.queue_size = 100  # 96: two steps of frames, three of sub-words, 12 of words
    config.contrast.chunk = 64
    config.momentum.value = 0.9
    config.optimizer.warmup_images = 0
    config.key_norm = "sync"
    config.update_from_flattened_dict(changes)
    return config


def make_plan(config: ConfigDict) -> PretrainPlan:
    """Its plan; how many devices share the batch is what the tests vary."""
    return pretrain_plan(config)


def make_state(config: ConfigDict, model: RCMSTR) -> PretrainState:
    plan = make_plan(config)
    return fresh_state(plan, model, make_optimizer(plan.optimizer)[0])


def make_step(config: ConfigDict, axis_name: str | None) -> Callable[..., Result]:
    plan = make_plan(config)
    optimizer, schedule = make_optimizer(plan.optimizer)
    model = build_model(plan, axis_name)
    return make_pretrain_step(plan, model, optimizer, schedule, axis_name)


def to_double(tree: Any) -> Any:
    """Floats as float64; keys, counters and pointers as they are."""

    def convert(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jnp.asarray(x.astype(np.float64) if x.dtype.kind == "f" else x)

    return jax.tree.map(convert, tree)
