r"""A light measure of a running pretraining: one linear map on frozen frames, few words.

Command, beside the pretraining that writes runs/rcmstr_cnn:

  python launch/evaluate.py --watch --config=configs/evaluate/linear_probe.py \
      --pretrained=runs/rcmstr_cnn --config.train.source=lmdb:data/train

It measures every checkpoint until the last and writes `probe/one_minus_ned` and
`probe/word_accuracy` (of words kept back from the source) into runs/rcmstr_cnn/watch; TensorBoard
shows them beside the curves of the run. Rendered words (`synthetic:0`) do not serve: validation
words are kept back from a finite source.

Cost: not yet measured.

Expected: not yet measured; the figures compare checkpoints, not methods.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "mini" (36 characters), "test" (three steps of a few words)."""
    config = common.get_config()
    config.decoder.name = "linear"
    config.train.labels = 2000.0
    config.train.validation = 500
    config.train.steps = 400
    config.train.validate_every = 400
    config.train.batch_size = 128
    config.train.learning_rate = 1e-2
    common.use_variant(config, variant)
    if variant == "mini":
        config.train.learning_rate = 1e-2
    if variant == "test":
        config.train.validation = 8
    return config
