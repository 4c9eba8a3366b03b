r"""The quickstart: the whole method at one sixteenth of the width, for two CPU cores.

Command:

  python launch/pretrain.py --config=configs/pretrain/mini.py --workdir=runs/mini

Variants: `cnn` (default), `vit`, and `test`, which takes three steps of a few images and exists for
tests and for a first look at the pictures.

Cost: ten minutes on two CPU cores (150 words a second), about one of them for compilation in the
first run.

Expected: in the quickstart, frozen with a CTC decoder, 76 to 87 % 1-NED on unseen words over three
seeds, against 22 to 28 % for the same encoder at random initialisation (README).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "cnn" (default), "vit", "test"."""
    variant = common.pick_variant(variant, ("cnn", "vit", "test"), "cnn")
    config = common.get_config()
    config.total_images = 76_800
    config.batch_size = 32
    config.log_every = 50
    config.checkpoint_every = 400
    config.picture_every = 0
    config.data.workers = 0
    config.data.cache = True
    config.contrast.queue_size = 4096
    config.contrast.chunk = 512
    config.mim.weight = 2.0
    config.momentum.value = 0.99
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.reference_batch = 32
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay_vectors = False
    config.optimizer.warmup_images = 1600
    config.optimizer.clip = 5.0
    # Without the recurrent projector the context has to be in the encoder, which is what is kept.
    config.model.projector = "mlp"
    config.model.projector_hidden = 64
    config.model.predict_dim = 64
    # Words of at most five letters: 16 frames.
    config.model.image_width = 60
    if variant == "vit":
        config.model.encoder = "vit"
        config.model.width, config.model.depth, config.model.heads = 64, 4, 2
        config.model.image_width = 128
        config.data.cache = False
    else:
        config.model.width = 64
        config.model.blocks = (1, 1, 1, 1)
    if variant == "test":
        config.total_images = 24  # three steps
        config.batch_size = 8
        config.momentum.reference_batch = 8
        config.optimizer.reference_batch = 8
        config.log_every = 1
        config.checkpoint_every = 2
        config.data.cache = False
        config.model.projector = "bilstm"
        config.model.image_width = 100
        config.model.width = 16
        config.model.blocks = (1, 1, 1, 1)
        config.model.projector_hidden = 16
        config.model.predict_dim = 16
        config.contrast.queue_size = 512
        config.contrast.chunk = 256
        config.optimizer.warmup_images = 8
    return config
