r"""Semi-supervised: encoder and CTC decoder fine-tuned on 1, 5, 10 and 100 % of the labels.

Method section 8.2. Command, with the same encoder at random initialisation beside each, three
seeds, means and deviations:

  python launch/evaluate.py --config=configs/evaluate/semi_supervised.py \
      --workdir=runs/semi_supervised --pretrained=runs/rcmstr_cnn \
      --config.train.source=lmdb:data/train --config.benchmarks=data/benchmark

The subsets are nested, and the same for all seeds and initialisations: they are drawn with
`train.subset_seed`, and the seeds decide on initialisation, order and augmentation alone. Every
share takes ten passes over its own words; with `:mini` the same number of steps.

Cost: `:mini`, eight runs on 725 and 7,239 words, 42 minutes on one core that other work shared.

Expected: `:mini` ends while CTC hardly writes more than blanks, whatever the encoder; the full
protocol is not yet measured.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "mini" (an hour on one core), "test" (a few steps)."""
    config = common.get_config()
    config.train.steps, config.train.passes = 0, 10.0
    common.use_variant(config, variant)
    config.protocol = "finetune"
    config.random_beside = True
    config.seeds = (0, 1, 2)
    config.label_shares = (0.01, 0.05, 0.1, 1.0)
    config.train.subset_seed = 0
    config.train.view_ops = 3
    config.train.steps_per_call = 1
    if variant == "mini":
        config.seeds = (0, 1)
        config.label_shares = (0.1, 1.0)
        config.train.batch_size = 32
        config.train.probe_steps = 1500
        config.train.steps = 900
    if variant == "test":
        config.seeds = (0, 1)
        config.label_shares = (0.5, 1.0)
    return config
