r"""Text segmentation: the pixels of a word crop that belong to its characters.

Command, on rendered words, whose masks are exact:

  python launch/evaluate.py --config=segmentation --workdir=runs/segmentation \
      --pretrained=runs/rcmstr_cnn

The same encoder, untrained, is run beside it; Otsu's threshold stands in every table. With
`--config.protocol=finetune` the encoder learns too. `:published` trains on TextSeg in
`data/textseg`, and is scored on its test split; its length is ours. `:mini` takes minutes on two
cores.

Cost and result: docs/dense.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "mini", "published", "test" (three steps of a few words)."""
    config = common.get_dense_config("segmentation")
    words = "textseg:data/textseg"
    return common.use_dense_variant(config, variant, f"{words}:train", f"{words}:test")
