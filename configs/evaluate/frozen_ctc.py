r"""Feature representation: a CTC decoder on the frames of a frozen encoder (method section 8.1).

Command:

  python launch/evaluate.py --config=configs/evaluate/frozen_ctc.py --workdir=runs/frozen_ctc \
      --pretrained=runs/rcmstr_cnn --config.train.source=lmdb:data/train \
      --config.benchmarks=data/benchmark

The same encoder, untrained, is run beside it (`random_beside`). `:published` has the budget of the
ancestor's probe: 200,000 steps of 256 words, lightly augmented, streamed through the encoder.

Cost: logged after the first steps of a run; of `:published` 51.2 million words, twice with the
random encoder. `:mini` on 7,239 words with IC13 and SVT scored, about 95 s on two cores that other
work shared.

Expected: `:mini` after a short pretraining on real words, docs/results/real.md; at full size not
yet measured.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "published", "mini" (quickstart), "test" (three steps)."""
    config = common.use_variant(common.get_config(), variant, "published")
    if variant == "mini":
        config.train.steps = 1500
    return config
