r"""Fine-tuning: encoder and transformer decoder on all labels (method section 8.3).

Command, with the same encoder at random initialisation beside it:

  python launch/evaluate.py --config=configs/evaluate/finetune_transformer.py \
      --workdir=runs/finetune_transformer --pretrained=runs/rcmstr_vit \
      --config.train.source=lmdb:data/train --config.benchmarks=data/benchmark

Ten passes over the labels in batches of 512 at 2e-4, as the works of method section 10 have it;
layer-wise learning rates, warm-up, weight decay, a moving average of the weights, and of the
weights those that read 500 words best that are kept back from the training words: no benchmark is
looked at before the end.

`:published` adds what DiG's command for fine-tuning its ViT has beside these: drop path 0.1. It
is for a ViT.

Cost: `:mini` with two seeds, four runs on 7,048 words, 14 minutes on one core that other work
shared.

Expected: `:mini` after a short pretraining on real words 1.2 % of IC13 and SVT (at `6131e91`); the
full protocol is not yet measured.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "published", "mini" (minutes on two cores), "test"."""
    config = common.get_config()
    config.protocol = "finetune"
    config.decoder.name = "transformer"
    config.decoder.hidden = 384
    config.train.steps, config.train.passes = 0, 10.0
    config.train.batch_size = 512
    config.train.learning_rate = 2e-4
    config.train.warmup_share = 0.1
    config.train.layer_decay = 0.75
    config.train.weight_decay = 0.05
    config.train.average = 0.999
    config.train.view_ops = 5
    config.train.validation = 500
    config.train.patience = 10
    config.train.steps_per_call = 1
    if variant == "published":
        variant, config.train.drop_path = "full", 0.1
    common.use_variant(config, variant, "published")
    if variant == "mini":
        config.decoder.depth = 2
        config.random_beside = True
        config.train.learning_rate = 1e-3
        config.train.batch_size = 32
        config.train.steps = 700
        config.train.validation = 200
        config.train.validate_every = 175
        config.train.average = 0.98
    if variant == "test":
        config.random_beside = True
        config.train.validation = 8
        config.train.steps_per_call = 1
    return config
