r"""One self-contained HTML page about runs: scores, curves, words, and what the encoder has learnt.

  python launch/report.py RUN [RUN ...] [--out=FILE.html] [--words=SOURCE] [--nocrops]
  python launch/report.py RUN --sheet=FILE.png

RUNs are workdirs of launch/pretrain.py and launch/evaluate.py, in any number, or folders that hold
such, as launch/quickstart.sh makes one; --out is report.html in the first by default. A section
whose inputs no run has is left out and says why. --words names the words that the networks are
shown with (as in data.source: lmdb:PATH, synthetic:SEED:COUNT); the sets of the first evaluation by
default. --nocrops keeps the images of the scored sets, which may not be passed on, out of the page.
--sheet draws words that the first evaluation read right and wrong, and writes no page.

Exit codes: 0 written; 1 failed; 2 a mistake in the flags or the runs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from rcmstr_jax.reporting.page import WORDS, write_page
from rcmstr_jax.reporting.runs import open_runs
from rcmstr_jax.reporting.sheets import draw_words
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.compilation import enable_compilation_cache
from rcmstr_jax.runtime.progress import PACKAGE_LOGGER

OUT = flags.DEFINE_string(
    "out", None, "HTML file to write; report.html in the first RUN by default."
)
SOURCE = flags.DEFINE_string("words", None, "Words that the networks are shown with.")
NUM_WORDS = flags.DEFINE_integer("num_words", WORDS, "At most so many of them.")
CROPS = flags.DEFINE_bool("crops", True, "Show the images of the scored sets.")
SHEET = flags.DEFINE_string("sheet", None, "PNG file of words read right and wrong, and no page.")
TITLE = flags.DEFINE_string("title", "Scene text recognition: report", "Heading of the page.")


def main(argv: Sequence[str]) -> int:
    """Writes the page; returns the exit code."""
    logger = logging.getLogger(PACKAGE_LOGGER)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with command_line.one_line_errors(mistakes=(ValueError,)):
        if SHEET.value is not None:
            evaluated = [run for run in open_runs(argv[1:]) if run.results is not None]
            if not evaluated:
                raise ValueError("--sheet needs the workdir of an evaluation; none is given")
            print(f"written: {draw_words(evaluated[0], str(SHEET.value))}")
            return 0
        enable_compilation_cache("auto")
        out = write_page(
            argv[1:],
            OUT.value or Path(*argv[1:2]) / "report.html",
            words=SOURCE.value,
            num_words=NUM_WORDS.value,
            crops=CROPS.value,
            title=TITLE.value,
        )
    print(f"written: {out}, {out.stat().st_size / 1024:.0f} KiB")
    return 0


run = command_line.command(main, positional=True)  # rcmstr-report

if __name__ == "__main__":
    run()
