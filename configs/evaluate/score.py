r"""Scores a trained recogniser on every LMDB below a folder, whatever lies there.

Command:

  python launch/evaluate.py --config=configs/evaluate/score.py --workdir=runs/scores \
      --pretrained=runs/finetune_transformer --config.benchmarks=data/benchmark

`--pretrained` is the workdir of an earlier evaluation. Sets of unknown names are scored under their
own; one that is empty, damaged or no scene-text LMDB stands in the table with the reason, and
images that cannot be decoded count as errors.

Cost: reading alone; not yet measured.

Expected: what the recogniser's own evaluation found on the same sets.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "mini" (the same), "test" (small batches)."""
    config = common.use_variant(common.get_config(), variant)
    config.protocol = "score"
    config.decoder.beams = 0
    return config
