r"""Text image super-resolution: a word crop of 16 x 64 pixels in twice its height and width.

Command, on rendered words, damaged by the renderer's camera:

  python launch/evaluate.py --config=super_resolution --workdir=runs/super_resolution \
      --pretrained=runs/rcmstr_cnn

The same encoder, untrained, is run beside it; bicubic enlargement stands in every table, and how
many words the recogniser `config.recognizer` reads of the small image, of either enlargement and of
the true one. With `--config.protocol=finetune` the encoder learns too. `:published` trains on
TextZoom (`data/textzoom/train`, scored on its three test sets; its length is ours). `:mini` takes
minutes on two cores.

Cost and result: docs/dense.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Variants: "full" (default), "mini", "published", "test" (three steps of a few words)."""
    config = common.get_dense_config("super_resolution")
    config.recognizer = "compact"
    words = "textzoom:data/textzoom"
    sets = [f"{words}/test/{name}" for name in ("easy", "medium", "hard")]
    common.use_dense_variant(config, variant, f"{words}/train", *sets)
    if variant == "mini":
        config.head.width = 32
        config.head.depth = 2
    if variant == "test":
        config.head.depth = 2
        config.recognizer = ""
    return config
