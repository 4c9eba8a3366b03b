r"""Feature representation: an attention decoder on frames of a frozen encoder (method section 8.1).

Command:

  python launch/evaluate.py --config=configs/evaluate/frozen_attention.py \
      --workdir=runs/frozen_attention --pretrained=runs/rcmstr_cnn \
      --config.train.source=lmdb:data/train --config.benchmarks=data/benchmark

The same encoder, untrained, is run beside it (`random_beside`). `:published` has the budget of the
ancestor's probe: 200,000 steps of 256 words, lightly augmented, streamed through the encoder.

Cost: logged after the first steps of a run; of `:published` 51.2 million words, twice with the
random encoder.

Expected: not yet measured.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "published", and "test" (three steps of a few words)."""
    config = common.get_config()
    config.decoder.name = "attention"
    return common.use_variant(config, variant, "published")
