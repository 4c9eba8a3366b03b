r"""RCMSTR on the published TPS + ResNet-29 + BiLSTM (method sections 3 and 7), 48.95 M parameters.

Command:

  python launch/pretrain.py --config=configs/pretrain/rcmstr_cnn.py --workdir=runs/rcmstr_cnn \
    --config.data.source=lmdb:/data/MJSynth --config.data.source=lmdb:/data/SynthText \
    --config.model.rectifier_from=runs/tps

where `runs/tps` holds the rectifier of a published recogniser:

  python launch/convert_weights.py --from=TPS-ResNet-BiLSTM-Attn.pth --kind=tps --to=runs/tps

Variants: (none) five epochs of 5.5 M words at a global batch of 256; `step` the same with a step
schedule instead of the cosine.

Cost: 107,000 steps of 256 words: a job for accelerators, not for a CPU (`mini.py` is); not
measured, docs/recipes.md predicts it.

Expected: not measured at this size, and the paper gives no figure for the frozen protocol. Those of
its published ancestor belong to another recipe: `ablation.py:inter,recipe=ancestor`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common

WORDS, EPOCHS = 5_500_000, 5


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "cosine" (default), "step"."""
    config = common.get_config()
    config.model.rectifier = True
    config.optimizer.schedule = common.pick_variant(variant, ("cosine", "step"), "cosine")
    config.total_images = EPOCHS * WORDS
    return config
