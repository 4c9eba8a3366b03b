r"""Explains the masked pass of the CNN: its cost against the mask ratio, and a mask drawn.

  python launch/explain_sparse.py [--width=512] [--ratios=0.3,0.5,0.7,0.9] [--drawing=mask.svg]

Prints what the convolutions of one image compute and move in the forward pass (counted, not
measured; the backward pass has twice the operations). The drawing shows which sites of every
resolution one random mask keeps active.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from rcmstr_jax.benchmarking.sparse_costs import ROWS, cost_table
from rcmstr_jax.plotting.sites import draw_sites
from rcmstr_jax.ssl.masking import draw_mask

WIDTH = flags.DEFINE_integer("width", 512, "Width of the encoder, a multiple of 16.")
IMAGE_WIDTH = flags.DEFINE_integer("image_width", 100, "Pixels, a multiple of 4.")
RATIOS = flags.DEFINE_list("ratios", ["0.1", "0.3", "0.5", "0.7", "0.9"], "Hidden shares.")
DRAWING = flags.DEFINE_string("drawing", None, "SVG file to write.")
SEED = flags.DEFINE_integer("seed", 0, "Of the drawn mask: 70 % of the patches, one block.")


def main(argv: Sequence[str]) -> None:
    """Prints the table, writes the drawing."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: give flags only")
    logging.set_verbosity(logging.WARNING)  # of the libraries below
    rows = cost_table(WIDTH.value, [float(ratio) for ratio in RATIOS.value], IMAGE_WIDTH.value)
    for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]:
        print(f"| {' | '.join(row)} |")
    if DRAWING.value:
        mask = draw_mask(jax.random.key(SEED.value), 1, (ROWS, IMAGE_WIDTH.value // 4))
        drawing = draw_sites(np.asarray(mask[0]), (32, IMAGE_WIDTH.value))
        Path(DRAWING.value).write_text(drawing, encoding="utf-8")
        print(f"written: {DRAWING.value}")


if __name__ == "__main__":
    app.run(main)
