"""The plan of the default config for an encoder that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from rcmstr_jax.benchmarking.cases import Settings
from rcmstr_jax.configs.pretrain import common, compact
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan


def plan_with(settings: Settings, fields: Mapping[str, Any]) -> PretrainPlan:
    """The plan of the default config for this encoder with some fields changed."""
    config = compact.get_config() if settings.model == "compact" else common.get_config()
    if settings.model.startswith("vit"):
        common.use_vit(config)
    config.update_from_flattened_dict(fields)
    return pretrain_plan(config, devices=jax.local_device_count())
