r"""Masked image modelling alone, on a narrow encoder: does it learn, and which masks teach most?

Command:

  python launch/pretrain.py --config=configs/pretrain/mim.py:cnn --workdir=runs/mim_cnn \
      --config.data.source=lmdb:data/words

Variants: `cnn` (default) and `vit`. `--config.mim.kind=patch` hides no block,
`--config.mim.kind=block --config.mim.block_ratio=0.7` hides as much by the block alone.

Cost and result: docs/results/mim.md. `python launch/reconstruct.py --pretrained=runs/mim_cnn`
measures the loss on words that were held out.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common, mini


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "cnn" (default), "vit"."""
    variant = common.pick_variant(variant, ("cnn", "vit"), "cnn")
    config = mini.get_config(variant)
    config.total_images = 38_400
    config.checkpoint_every = 100
    config.keep_period = 100
    config.log_every = 20
    config.picture_every = -1
    config.contrast.hierarchies = ()
    config.contrast.pairs = ()
    config.rearrange.enabled = False
    # Words as they are, as they are scored where they were held out.
    config.views.enabled = False
    config.mim.weight = 1.0
    config.data.cache = True
    # At width 64 the whole method did not learn to fill real words (docs/results/mim.md).
    config.model.width = 128
    config.model.image_width = 100
    if variant == "vit":
        config.model.depth, config.model.heads = 2, 4
        config.model.image_width = 64
    return config
