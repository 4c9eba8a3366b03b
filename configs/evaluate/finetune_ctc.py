r"""Semi-supervised: encoder and CTC decoder fine-tuned on few labels (method section 8.2).

Command, with one word in ten:

  python launch/evaluate.py --config=configs/evaluate/finetune_ctc.py --workdir=runs/finetune_ctc \
      --pretrained=runs/rcmstr_cnn --config.train.labels=0.1 \
      --config.train.source=lmdb:data/train --config.benchmarks=data/benchmark

and `--pretrained=random:runs/rcmstr_cnn` for the row beside it: the same encoder, untrained.

Cost: not yet measured.

Expected: not yet measured.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), and "test", which takes three steps of a few words."""
    config = common.get_config()
    config.protocol = "finetune"
    return common.use_variant(config, variant)
