"""The plan of an evaluation that answers every pixel: text segmentation, super-resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rcmstr_jax.runtime.arithmetic import Precision
from rcmstr_jax.runtime.config_files import absent, config_to_jsonable, from_section
from rcmstr_jax.training import plan_checks
from rcmstr_jax.training.plan import LabelledPlan, LabelPlan, label_loop, model_plan
from rcmstr_jax.training.stored import as_config


@dataclasses.dataclass(frozen=True)
class DenseHeadPlan:
    """The head of a dense task: `config.head`; 0 stands for the head's own size."""

    width: int = 0
    depth: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensePlan(LabelledPlan):
    """Everything about an evaluation; `configs/evaluate/common.py` explains the fields."""

    task: str
    benchmarks: tuple[str, ...]
    recognizer: str
    head: DenseHeadPlan


def dense_plan(
    config: ConfigDict | Mapping[str, Any], *, devices: int = 1, hosts: int = 1
) -> DensePlan:
    """Resolves and checks a config that `configs/evaluate/common.get_dense_config` made.

    Args:
      config: as it was made, or as a run stored it.
      devices: over all hosts, which the batch is divided over.
      hosts: processes of the run.

    Raises:
      ConfigError: naming field, value and remedy.
    """
    config = as_config(config)
    plan_checks.check_values(config, plan_checks.DENSE)
    plan_checks.check_dense(config, devices=devices, hosts=hosts)
    labels = absent(LabelPlan, config.train)
    return from_section(
        DensePlan,
        config,
        train=from_section(LabelPlan, config.train, **labels),
        loop=label_loop(config),
        model=model_plan(config.model),
        precision=Precision(config.model.precision),
        config=config_to_jsonable(config),
    )
