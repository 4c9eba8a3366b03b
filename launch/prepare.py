r"""Turns labelled images or a public download of words into an LMDB (or a TFDS dataset).

  python launch/prepare.py --from=folder --source=crops --out=data/mine --split=0.9,0.1
  python launch/prepare.py --from=icdar --source=ch4_test_word_images_gt \
    --annotation=Challenge4_Test_Task3_GT.txt --out=data/benchmark/IC15_2077 --expect=2077
  python launch/prepare.py --from=icdar --source=Challenge2_Test_Task3_Images \
    --annotation=Challenge2_Test_Task3_GT.txt --filter=alphanumeric --out=data/benchmark/IC13_1015
  python launch/prepare.py --from=icdar2003 --source=IC03 --out=data/benchmark/IC03
  python launch/prepare.py --from=iiit5k --source=IIIT5K --out=data/benchmark/IIIT5K_3000
  python launch/prepare.py --from=svt --source=svt1 --out=data/benchmark/SVT_647
  python launch/prepare.py --from=cute80 --source=ct80 --out=data/benchmark/CUTE80_288
  python launch/prepare.py --from=union14m --source=Union14M-L/Union14M-Benchmarks/artistic \
    --out=data/benchmark/Union14M-Benchmark/artistic
  python launch/prepare.py --from=mjsynth --source=mjsynth --out=data/train/MJ --workers=8 \
    --part=1/4
  python launch/prepare.py --from=synthtext --source=SynthText --out=data/train/ST --workers=8 \
    --exclude_like=data/benchmark
  python launch/prepare.py --from=lmdb --source=data/words --out=data/words_tfds --format=tfds

An annotation is looked for in --source (for training splits: --annotation=traindata.mat). Words
without image, label or readable pixels are left out, counted, and named in OUT/skipped.jsonl. The
same command goes on where a killed one stopped.

Exit codes: 0 written; 1 it could not go on; 2 a mistake in the flags or the data, and nothing was
written; 75 stopped by Ctrl-C, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import lmdb
from absl import flags
from tqdm import tqdm

from rcmstr_jax.data.benchmarks import RULES
from rcmstr_jax.data.formats import FORMATS
from rcmstr_jax.data.prepare.convert import SKIPPED, describe, prepare
from rcmstr_jax.data.prepare.forms import FORMS
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.errors import EXIT_PREEMPTED

FROM = flags.DEFINE_enum("from", None, list(FORMS), "Form of the images and their labels.")
SOURCE = flags.DEFINE_string("source", None, "Folder of the download; nothing outside it is read.")
ANNOTATION = flags.DEFINE_string("annotation", None, "Annotation file, relative to --source.")
OUT = flags.DEFINE_string("out", None, "Folder to make; its name decides which sizes are accepted.")
FORMAT = flags.DEFINE_enum(
    "format", "lmdb", FORMATS, "What to write; a TFDS dataset consists of ArrayRecord files."
)
FILTER = flags.DEFINE_enum("filter", "all", list(RULES), "Which labels enter.")
EXPECT = flags.DEFINE_integer("expect", None, "Number of words that must result.")
SPLIT = flags.DEFINE_string(
    "split", "", "Shares as in 0.9,0.1: into OUT/train and OUT/validation (a third: OUT/test)."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of --split.")
PART = flags.DEFINE_string("part", "", "I/N: the I-th of N parts, into a folder of OUT.")
EXCLUDE_LIKE = flags.DEFINE_string(
    "exclude_like", "", "Benchmarks whose near-duplicates are named and left out."
)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0 works in this one.")
flags.mark_flags_as_required(["from", "source", "out"])


def main(argv: Sequence[str]) -> int:
    """Converts and prints the counts; returns the exit code."""
    del argv
    out = str(OUT.value)
    with (
        command_line.one_line_errors(lmdb.Error, mistakes=(ValueError,)),
        tqdm(unit=" words", smoothing=0.1, delay=1) as bar,
    ):
        try:
            counts = prepare(
                str(FROM.value),
                str(SOURCE.value),
                out,
                annotation=ANNOTATION.value,
                rule=FILTER.value,
                expect=EXPECT.value,
                kind=FORMAT.value,
                split=SPLIT.value,
                seed=SEED.value,
                part=PART.value,
                exclude_like=EXCLUDE_LIKE.value,
                workers=WORKERS.value,
                progress=lambda done: bar.update(done - bar.n),
            )
        except KeyboardInterrupt:
            bar.close()
            print("stopped: the same command goes on")
            return EXIT_PREEMPTED
    found = describe(counts, out)
    print(f"{out}: {counts.written} of {counts.listed} words, filter: {RULES[FILTER.value]}")
    if SPLIT.value:
        print("; ".join(f"{name}: {size}" for name, size in found["sets"].items()))
    if counts.filtered or counts.by_reason:
        reasons = "".join(f"; {n} x {why}" for why, n in counts.reasons().items())
        print(f"left out: {counts.filtered} by the filter{reasons} (named in {SKIPPED})")
    if found["accepted"] is not None:
        sizes = " or ".join(map(str, found["accepted_sizes"]))
        verdict = "a published size" if found["accepted"] else f"NOT a published size ({sizes})"
        print(f"{counts.written} is {verdict} of this set")
    return 0


run = command_line.command(main)  # rcmstr-prepare

if __name__ == "__main__":
    run()
