r"""The whole method on the compact encoder, with colour views: a start for training on processors.

Command:

  python launch/pretrain.py --config=configs/pretrain/compact.py --workdir=runs/compact

Cost: not measured.

Expected: not measured. Encoder and colour views are not in the paper.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common
from rcmstr_jax.models.compact import CompactEncoder


def get_config() -> ConfigDict:
    """Words of the preset `scene`; the optimiser is that of `mini.py`."""
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
    return config
