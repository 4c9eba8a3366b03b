r"""Semi-supervised: encoder and CTC decoder fine-tuned on few labels (method section 8.2).

Command, with one word in ten:

  python launch/evaluate.py --config=configs/evaluate/finetune_ctc.py --workdir=runs/finetune_ctc \
      --pretrained=runs/rcmstr_cnn --config.train.labels=0.1 \
      --config.train.source=lmdb:data/train --config.benchmarks=data/benchmark

and `--pretrained=random:runs/rcmstr_cnn` for the row beside it: the same encoder, untrained.

Ten passes over the labels that are given, however many.

Cost and result of `:mini`: README.md, on rendered words; the full protocol is not yet measured.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "mini" (quickstart), "test" (three steps of a few words)."""
    config = common.get_config()
    config.train.steps, config.train.passes = 0, 10.0
    common.use_variant(config, variant)
    config.protocol = "finetune"
    config.train.steps_per_call = 1
    if variant == "mini":
        config.train.labels = 300.0
        config.train.probe_steps = 400
        config.train.steps = 320
        config.train.view_ops = 3
    return config
