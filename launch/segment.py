r"""Marks the pixels of characters in word images with a trained network.

  python launch/segment.py --checkpoint=DIR --out=DIR2 IMAGE... | FOLDER | -

DIR is the workdir of a finished launch/evaluate.py --config=segmentation. Every image is one
word, cropped. A folder stands for the images in and below it, other files are skipped and counted;
`-` is one image on standard input. A mask is 255 where there is text and else 0, in the size of its
image as it is stored. Pictures are PNG files in DIR2, called as the images are; prints a line per
image: its path and the picture's, or why there is none. Counts and speed go to standard error.

Exit codes: 0 written, 1 none of the images could be used, 2 a mistake in the flags or paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from rcmstr_jax.dense.answering import answer_command
from rcmstr_jax.runtime import command_line

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of a finished evaluation.")
OUT = flags.DEFINE_string("out", None, "Folder for the pictures.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per call.", lower_bound=1)
flags.mark_flags_as_required(["checkpoint", "out"])


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    logging.set_verbosity(logging.ERROR)  # of the libraries; what cannot be used is printed
    checkpoint, out = str(CHECKPOINT.value), Path(str(OUT.value))
    return answer_command("segmentation", checkpoint, argv[1:], out, BATCH_SIZE.value)


run = command_line.command(main, positional=True)  # rcmstr-segment

if __name__ == "__main__":
    run()
