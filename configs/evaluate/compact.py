r"""The compact recogniser on every label there is: rendered words, and real crops beside them.

The encoder of `configs/pretrain/compact.py` under one linear map and the CTC loss. Command, on
words rendered by

  python launch/render_words.py --num=1000000 --seed=1 --difficulty=scene --out=data/scene \
      --backgrounds=data/photographs

and real crops, a tenth of the mixture, watched on real crops that are not trained on:

  python launch/evaluate.py --config=configs/evaluate/compact.py --workdir=runs/compact \
      --pretrained=random --config.benchmarks=data/benchmark \
      --config.train.source="('lmdb:data/scene', 'lmdb:data/real')" \
      --config.train.weights="(0.9, 0.1)" \
      --config.train.validation_source="('lmdb:data/held_out',)"

Cost and result: docs/results/compact.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.configs.pretrain import common as pretrain
from rcmstr_jax.configs.pretrain import compact


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "test" (three steps of a small network)."""
    variant = pretrain.pick_variant(variant, ("full", "test"), "full")
    config = common.get_config()
    config.protocol = "finetune"
    config.random_beside = False
    config.model = compact.get_config().model
    config.decoder.name = "linear"
    config.decoder.charset = "68"
    config.train.labels = 1_000_000.0
    config.train.validation = 900
    config.train.validate_every = 2000
    config.train.steps = 100_000
    config.train.batch_size = 64
    config.train.learning_rate = 2e-3
    config.train.warmup_share = 0.05
    config.train.weight_decay = 0.02
    config.train.average = 0.9995
    config.train.view_ops = 2
    # Compiled loops run convolutions several times slower on CPU than single steps.
    config.train.steps_per_call = 1
    if variant == "test":
        config.train.validation = 0
        common.use_variant(config, "test")
        config.model.blocks = (1, 1, 1)
    return config
