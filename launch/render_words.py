"""Renders synthetic words to an LMDB or a TFDS dataset.

    python launch/render_words.py --num=100000 --out=data/words --format=lmdb --sheet=words.png

Every look is a flag: `--difficulty` sets them all, and each field of RenderOptions
(rcmstr_jax/data/synthetic/options.py) is a flag of its own that overrides it.
"""

from __future__ import annotations

import dataclasses
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
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import ConfigError

_NUM = flags.DEFINE_integer("num", 10_000, "number of words")
_OUT = flags.DEFINE_string("out", None, "folder to write; it appears when it is complete")
_FORMAT = flags.DEFINE_enum("format", "lmdb", FORMATS, "what to write")
_SEED = flags.DEFINE_integer("seed", 0, "words of different seeds are unrelated")
_WORKERS = flags.DEFINE_integer("workers", 0, "processes; 0 renders in this one")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace rendered words at --out")
_DIFFICULTY = flags.DEFINE_enum("difficulty", "medium", DIFFICULTIES, "what other flags start from")
_SHEET = flags.DEFINE_string("sheet", None, "write a contact sheet of the first words, a PNG")
_SHEET_WORDS = 300


def _define_options() -> None:
    for field in dataclasses.fields(RenderOptions):
        text = f"{field.metadata['help']} (default: {field.default!r}, or by --difficulty)"
        if isinstance(field.default, tuple):
            flags.DEFINE_list(field.name, None, text)
        elif isinstance(field.default, int):
            flags.DEFINE_integer(field.name, None, text)
        elif isinstance(field.default, float):
            flags.DEFINE_float(field.name, None, text)
        else:
            flags.DEFINE_string(field.name, None, text)


_define_options()


def options_from_flags() -> RenderOptions:
    """The difficulty with the fields that were given as flags."""
    given = {
        field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(RenderOptions)
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return RenderOptions.preset(_DIFFICULTY.value, **changes)


def main(argv: Sequence[str]) -> int:
    """Renders, and prints the rate; returns the exit code."""
    del argv
    cv2.setNumThreads(1)  # words are small, and workers share the cores already
    with command_line.one_line_errors():
        try:
            render()
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return 0


def render() -> None:
    """Does what the flags ask for.

    Raises:
      ValueError: on flags that cannot work.
    """
    if _OUT.value is None and _SHEET.value is None:
        raise ValueError("nothing to write: give --out=FOLDER, or --sheet=PNG, or both")
    if _OUT.value is not None:
        check_target(_OUT.value, _NUM.value, _FORMAT.value, _OVERWRITE.value)
    source = SyntheticSource(_SEED.value, _NUM.value, options_from_flags())
    print(f"{len(source.faces)} faces; {_NUM.value} words, seed {_SEED.value}")
    if _SHEET.value is not None:
        write_sheet((source[i] for i in range(min(_SHEET_WORDS, _NUM.value))), _SHEET.value)
        print(f"contact sheet: {_SHEET.value}")
    if _OUT.value is not None:
        _export(source, _OUT.value)


def _export(source: SyntheticSource, out: str) -> None:
    start, worked = time.perf_counter(), _cpu_seconds()
    with tqdm(total=_NUM.value, unit=" words", smoothing=0.1) as bar:
        count = export_words(
            source,
            out,
            num=_NUM.value,
            form=_FORMAT.value,
            workers=_WORKERS.value,
            overwrite=_OVERWRITE.value,
            progress=lambda done: bar.update(done - bar.n),
        )
    seconds, worked = time.perf_counter() - start, _cpu_seconds() - worked
    print(
        f"{count} words in {seconds:.1f} s ({count / seconds:.0f} words/s; "
        f"{count / worked:.0f} words per second of processor time) -> {out} ({_FORMAT.value})"
    )


def _cpu_seconds() -> float:
    """Processor time of this process and of workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run() -> None:
    """The command `rcmstr-render`."""
    command_line.run(main)


if __name__ == "__main__":
    run()
