r"""Measures how well a pretrained network reconstructs hidden patches of words held out from it.

  python launch/reconstruct.py --pretrained=DIR --source=lmdb:data/heldout --workdir=DIR2

Prints, and writes to DIR2/reconstruction.json, one row per source, kind of mask and checkpoint: the
normalised reconstruction loss, that of columns that are hidden from top to bottom, that of
predicting every patch's mean, and the share of the pixels' variance within patches that is
explained. Masked words go to DIR2/SOURCE-KIND.png. With
--all_checkpoints also the loss over the steps, DIR2/curves.png.

Exit codes: 0 finished; 1 failed; 2 a mistake in the flags or the data.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.evaluation import reconstruction
from rcmstr_jax.evaluation.protocols import reported_as_config_error
from rcmstr_jax.evaluation.watch import checkpoint_steps
from rcmstr_jax.plotting import figures
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.compilation import enable_compilation_cache
from rcmstr_jax.runtime.files import write_json
from rcmstr_jax.ssl.masking import KINDS

PRETRAINED = flags.DEFINE_string("pretrained", None, "Workdir of a pretraining run with MIM.")
SOURCE = flags.DEFINE_multi_string("source", None, "Words it was not trained on; may be repeated.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for numbers and pictures.")
KINDS_OF_MASK = flags.DEFINE_list(
    "kinds", [], f"Masks, of {', '.join(KINDS)}; those of the training run if empty."
)
MASK_RATIO = flags.DEFINE_float("mask_ratio", None, "Hidden share; that of training if not given.")
BLOCK_RATIO = flags.DEFINE_float("block_ratio", None, "Of patch_block masks, as in training.")
WORDS = flags.DEFINE_integer("words", 1000, "Words per source, drawn by --seed.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 50, "Words that are normalised together.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of the choice of words and of the masks.")
ALL_CHECKPOINTS = flags.DEFINE_bool("all_checkpoints", False, "Every kept checkpoint, not one.")
flags.mark_flags_as_required(["pretrained", "source", "workdir"])

SHOWN = 4  # words in a picture
SCORES = ("loss", "column_loss", "patch_mean", "explained")
COLUMNS = ("source", "masks", "hidden", "step", "words", *SCORES)


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    del argv
    with command_line.one_line_errors():
        workdir = Path(str(WORKDIR.value))
        rows = measure(workdir)
    path = workdir / "reconstruction.json"
    write_json(path, {"command": shlex.join(sys.argv), "rows": rows})
    print(f"written: {path}, and pictures beside it")
    return 0


def measure(workdir: Path) -> list[dict[str, Any]]:
    """All rows, printed as they come; draws the pictures of the last checkpoint."""
    pretrained = str(PRETRAINED.value)
    with reported_as_config_error():
        workdir.mkdir(parents=True, exist_ok=True)
        enable_compilation_cache("auto")
        found = checkpoint_steps(Path(pretrained)) if ALL_CHECKPOINTS.value else []
        steps: list[int | None] = [*found] or [None]  # the newest, or the error that there is none
        networks = [reconstruction.load_network(pretrained, step) for step in steps]
        plan = networks[-1][1]
        faults = FaultLog(workdir / "faults.json")
        sources = {
            spec: reconstruction.load_images(
                open_source(spec, labels=False),
                plan,
                words=WORDS.value,
                seed=SEED.value,
                faults=faults,
            )
            for spec in SOURCE.value or ()
        }
        faults.write()
    rows = []
    print("  ".join(f"{name:>12}" for name in COLUMNS))
    for kind in KINDS_OF_MASK.value or [reconstruction.mask_of(plan).kind]:
        with reported_as_config_error():  # shares that these masks cannot have
            masked = reconstruction.with_masks(plan, kind, MASK_RATIO.value, BLOCK_RATIO.value)
            scorer = reconstruction.make_scorer(
                masked, batch_size=BATCH_SIZE.value, seed=SEED.value
            )
        for spec, images in sources.items():
            for step, _, variables in networks:
                row = {
                    "source": spec,
                    "masks": kind,
                    "hidden": reconstruction.mask_of(masked).mask_ratio,
                    "step": step,
                    **dataclasses.asdict(scorer(variables, images)),
                }
                rows.append(row)
                shown = {**row, "source": Path(spec).name}
                cells = (shown[name] for name in COLUMNS)
                texts = (f"{x:.4f}" if isinstance(x, float) else str(x) for x in cells)
                print("  ".join(f"{text:>12}" for text in texts), flush=True)
            batch = images[: BATCH_SIZE.value]
            made = reconstruction.reconstruct_images(masked, variables, batch, SEED.value)
            first = {name: value[:SHOWN] for name, value in made.items()}
            figures.save_masks(
                workdir / f"{Path(spec).name}-{kind}.png",
                first["target"],
                figures.hide_patches(first["target"], first["mask"]),
                first["reconstruction"],
                first["target"],
            )
    if len(steps) > 1:
        points: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            name = f"loss on held-out words/{Path(row['source']).name}, {row['masks']}"
            points.setdefault(name, []).append((row["step"], row["loss"]))
        curves = {name: tuple(np.array(line).T) for name, line in points.items()}
        figures.save_curves(workdir / "curves.png", curves)
    return rows


if __name__ == "__main__":
    command_line.command(main)()
