r"""A trained recogniser continued on labelled words of one's own, encoder and decoder.

Command:

  python launch/evaluate.py --config=configs/evaluate/finetune_recognizer.py --workdir=runs/mine \
      --pretrained=compact --config.train.source=folder:crops --config.benchmarks=data/mine

`--pretrained` is the name of packaged weights, a folder of weights, or the workdir of an earlier
evaluation. With `--config.decoder.charset=FILE` it learns other characters; what it knows of the
others stays. A tenth of the words or so is well kept back: `--config.train.validation=50`.

Cost and result: docs/your_data.md, and stage 2 of docs/results/compact.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.configs.pretrain import common as pretrain


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "test" (three steps of a few words)."""
    variant = pretrain.pick_variant(variant, ("full", "test"), "full")
    config = common.get_config()
    config.protocol = "finetune"
    config.random_beside = False
    config.decoder.name = "continued"
    config.decoder.charset = "continued"
    config.decoder.beams = 0
    config.train.steps = 1000
    config.train.batch_size = 64
    config.train.validate_every = 100
    config.train.warmup_share = 0.1
    config.train.weight_decay = 0.02
    config.train.average = 0.99
    config.train.view_ops = 2
    # Compiled loops run convolutions several times slower on CPU than single steps.
    config.train.steps_per_call = 1
    return common.use_variant(config, variant)
