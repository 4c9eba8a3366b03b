r"""A light measure of a running pretraining: one linear map on frozen frames, few words.

Command, beside the pretraining that writes runs/rcmstr_cnn:

  python launch/evaluate.py --watch --config=configs/evaluate/linear_probe.py \
      --pretrained=runs/rcmstr_cnn --config.train.source=lmdb:data/train

It measures the checkpoints until the last and writes `probe/one_minus_ned` and
`probe/word_accuracy` (of words kept back from the source) into runs/rcmstr_cnn/watch; TensorBoard
shows them beside the curves of the run. Rendered words (`synthetic:0`) do not serve: validation
words are kept back from a finite source.

Cost: 12 to 23 s a checkpoint, 5.8 s processor time, with the quickstart's encoder and words on two
cores (AMD EPYC, 2.6 GHz) that four other jobs shared: `--pretrained=out/pretrain
--config.train.source=lmdb:out/words/labelled --config.train.labels=1500
--config.decoder.charset=36`.

Expected: figures that compare checkpoints, not methods. On those cores 1-NED was 25.6 % at step
1600, 29.7 % at 2000, 29.9 % at 2400. Frames that do not spell single characters read nothing: 0 %
on real words with the same encoder after 4,000 steps, also with `--config.train.steps=1500`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


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
