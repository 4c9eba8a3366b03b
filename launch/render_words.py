"""Renders synthetic words to an LMDB or a TFDS dataset.

    python launch/render_words.py --num=100000 --out=data/words --format=lmdb --sheet=words.png

Every look is a flag: `--difficulty` sets them all, and each field of RenderOptions
(rcmstr_jax/data/synthetic/options.py) is a flag of its own that overrides it. Ten million words on
sixteen machines: the same command on each, with `--part=1/16` to `--part=16/16`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import cv2
from absl import flags
from tqdm import tqdm

from rcmstr_jax.data.formats import FORMATS
from rcmstr_jax.data.synthetic.export import check_target, export_words
from rcmstr_jax.data.synthetic.options import DIFFICULTIES, RenderOptions
from rcmstr_jax.data.synthetic.sheet import write_sheet
from rcmstr_jax.data.synthetic.source import SyntheticSource
from rcmstr_jax.data.workers import parse_part
from rcmstr_jax.launch import field_flags
from rcmstr_jax.runtime import command_line

_NUM = flags.DEFINE_integer("num", 10_000, "number of words")
_OUT = flags.DEFINE_string("out", None, "folder to write; it appears when it is complete")
_FORMAT = flags.DEFINE_enum("format", "lmdb", FORMATS, "what to write")
_SEED = flags.DEFINE_integer("seed", 0, "words of different seeds are unrelated")
_WORKERS = flags.DEFINE_integer("workers", 0, "processes; 0 renders in this one")
_PART = flags.DEFINE_string("part", "", "I/N: the I-th of N parts of --num, into a folder of --out")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace rendered words at --out")
_DIFFICULTY = flags.DEFINE_enum("difficulty", "medium", DIFFICULTIES, "what other flags start from")
_SHEET = flags.DEFINE_string("sheet", None, "write a contact sheet of the first words, a PNG")
_SHEET_WORDS = 300
field_flags.define(RenderOptions, ", or by --difficulty")


def main(argv: Sequence[str]) -> int:
    """Renders, and prints the rate; returns the exit code."""
    del argv
    cv2.setNumThreads(1)  # words are small, and workers share the cores already
    num, out, sheet = _NUM.value, _OUT.value, _SHEET.value
    with command_line.one_line_errors(mistakes=(ValueError,)):
        if out is None and sheet is None:
            raise ValueError("nothing to write: give --out=FOLDER, or --sheet=PNG, or both")
        if out is not None and not _PART.value:  # whose folder is in --out, beside those of others
            check_target(out, num, _FORMAT.value, _OVERWRITE.value)
        options = RenderOptions.preset(_DIFFICULTY.value, **field_flags.given(RenderOptions))
        source = SyntheticSource(_SEED.value, num, options)
        print(f"{len(source.faces)} faces; {num} words, seed {_SEED.value}")
        if sheet is not None:
            write_sheet((source[i] for i in range(min(_SHEET_WORDS, num))), sheet)
            print(f"contact sheet: {sheet}")
        if out is not None:
            _export(source, out)
    return 0


def _export(source: SyntheticSource, out: str) -> None:
    def clocks() -> tuple[float, float]:
        """Wall time, and processor time of this process and of workers that have ended."""
        return time.perf_counter(), sum(os.times()[:4])

    start, before = clocks()
    with tqdm(total=_NUM.value // parse_part(_PART.value)[1], unit=" words", smoothing=0.1) as bar:
        count = export_words(
            source,
            out,
            num=_NUM.value,
            form=_FORMAT.value,
            workers=_WORKERS.value,
            part=_PART.value,
            overwrite=_OVERWRITE.value,
            progress=lambda done: bar.update(done - bar.n),
        )
    end, after = clocks()
    print(
        f"{count} words in {end - start:.1f} s ({count / (end - start):.0f} words/s; "
        f"{count / (after - before):.0f} words per second of processor time) -> {out} "
        f"({_FORMAT.value})"
    )


run = command_line.command(main)  # rcmstr-render

if __name__ == "__main__":
    run()
