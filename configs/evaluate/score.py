r"""Scores a trained recogniser on every LMDB below a folder, whatever lies there.

Command:

  python launch/evaluate.py --config=configs/evaluate/score.py \
      --pretrained=runs/finetune_transformer --config.benchmarks=data/benchmark

`--pretrained` is the workdir of an earlier evaluation, in whose folder `scores/benchmark` the
scores lie without `--workdir`; or a folder of weights; or a name, `compact`, whose scores lie in
`scores/compact/benchmark`. `--config.decoder.beams=N` changes a transformer's search. Sets of
unknown names are scored under their own; one that is empty, damaged or no scene-text LMDB stands in
the table with the reason, and records that cannot be used count as errors.

Cost: 15 s for 1,662 real words (IC13, SVT), 28 s with start and loading, of which 6.6 s processor
time; CNN of width 64 with one block per stage and a CTC decoder, two cores (AMD EPYC, 2.6 GHz)
that four other jobs shared.

Expected: what the recogniser's own evaluation found on the same sets.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "mini" (the same), "test" (small batches)."""
    config = common.use_variant(common.get_config(), variant)
    config.protocol = "score"
    config.decoder.beams = 0
    return config
