r"""RCMSTR on a Vision Transformer: tiny, small or base (method sections 3 and 7).

Command:

  python launch/pretrain.py --config=configs/pretrain/rcmstr_vit.py:small --workdir=runs/vit_small \
    --config.data.source=lmdb:/data/unlabelled

Variants: `tiny` (192 wide), `small` (384, default), `base` (512); each 12 blocks deep.

Cost: 53,700 steps of 1024 words (ten epochs of 5.5 M); not measured, docs/recipes.md predicts it.
Meant for eight or more accelerators; with fewer, lower `--config.batch_size` (the learning rate
follows linearly).

Expected: no published figure for the frozen protocol. What this project has measured is in
docs/results/.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common

WORDS, EPOCHS = 5_500_000, 10


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "tiny", "small" (default), "base"."""
    size = common.pick_variant(variant, ("tiny", "small", "base"), "small")
    config = common.use_vit(common.get_config(), size)
    config.batch_size = 1024
    config.total_images = EPOCHS * WORDS
    return config
