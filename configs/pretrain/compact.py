r"""The whole method on the compact encoder, with colour views: a start for training on processors.

Command:

  python launch/pretrain.py --config=configs/pretrain/compact.py --workdir=runs/compact
  python launch/pretrain.py --config=configs/pretrain/compact.py:mini --workdir=runs/compact_mini \
      --config.data.source="('lmdb:data/scene', 'lmdb:data/unlabelled')" \
      --config.data.weights="(0.5, 0.5)"

Cost: of `:mini`, docs/results/real.md; otherwise not measured, docs/recipes.md predicts it.

Expected: of `:mini` on real and rendered words, docs/results/real.md; otherwise not measured.
Encoder and colour views are not in the paper.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common
from rcmstr_jax.models.compact import CompactEncoder


def get_config(variant: str | None = None) -> ConfigDict:
    """Words of the preset `scene`; "full" (default), or "mini": batch and queue of `mini.py`."""
    variant = common.pick_variant(variant, ("full", "mini"), "full")
    config = common.get_config()
    config.model.encoder = "compact"
    config.model.width = CompactEncoder.width
    config.model.blocks = CompactEncoder.blocks
    config.model.attention = CompactEncoder.attention
    config.model.projector = "mlp"
    config.views.colours = True
    config.data.synthetic = common.synthetic_options("scene")
    # Which form is the faster one is measured for the CNN alone.
    config.mim.form = "masked_dense"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.reference_batch = 256
    config.momentum.reference_batch = 256
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay_vectors = False
    config.optimizer.warmup_images = 256_000
    config.optimizer.clip = 5.0
    if variant == "mini":
        config.total_images = 128_000
        config.batch_size = 32
        config.contrast.queue_size = 4096
        config.contrast.chunk = 512
        config.mim.weight = 2.0
        config.momentum.value = 0.99
        config.momentum.reference_batch = 32
        config.optimizer.learning_rate = 1.5e-3
        config.optimizer.reference_batch = 32
        config.optimizer.warmup_images = 6400
    return config
