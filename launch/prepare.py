r"""Turns a public download of words into an LMDB (or a TFDS dataset), and counts what is in it.

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

An annotation is looked for in --source (for training splits: --annotation=traindata.mat). Words
without image, label or readable pixels are left out, counted, and named in OUT/prepare.json.

Exit codes: 0 written; 2 a mistake in the flags or the data, and nothing was written.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from rcmstr_jax.data.benchmarks import RULES
from rcmstr_jax.data.formats import FORMATS
from rcmstr_jax.data.prepare.convert import NOTE, describe, prepare
from rcmstr_jax.data.prepare.forms import FORMS
from rcmstr_jax.runtime import command_line

FROM = flags.DEFINE_enum("from", None, list(FORMS), "Form of the download.")
SOURCE = flags.DEFINE_string("source", None, "Folder of the download.")
ANNOTATION = flags.DEFINE_string("annotation", None, "Annotation file, relative to --source.")
OUT = flags.DEFINE_string("out", None, "Folder to make; its name decides which sizes are accepted.")
FORMAT = flags.DEFINE_enum("format", "lmdb", FORMATS, "What to write.")
FILTER = flags.DEFINE_enum("filter", "all", list(RULES), "Which labels enter.")
EXPECT = flags.DEFINE_integer("expect", None, "Number of words that must result.")
flags.mark_flags_as_required(["from", "source", "out"])


def main(argv: Sequence[str]) -> int:
    """Converts and prints the counts; returns the exit code."""
    del argv
    with command_line.one_line_errors(mistakes=(ValueError,)):
        counts = prepare(
            str(FROM.value),
            str(SOURCE.value),
            str(OUT.value),
            annotation=ANNOTATION.value,
            rule=FILTER.value,
            expect=EXPECT.value,
            kind=FORMAT.value,
        )
    found = describe(counts, str(OUT.value))
    print(f"{OUT.value}: {counts.written} of {counts.listed} words, filter: {RULES[FILTER.value]}")
    if counts.filtered or counts.faults:
        reasons = "".join(f"; {n} x {why}" for why, n in counts.reasons().items())
        print(f"left out: {counts.filtered} by the filter{reasons} (see {NOTE})")
    if found["accepted"] is not None:
        sizes = " or ".join(map(str, found["accepted_sizes"]))
        verdict = "a published size" if found["accepted"] else f"NOT a published size ({sizes})"
        print(f"{counts.written} is {verdict} of this set")
    return 0


run = command_line.command(main)  # rcmstr-prepare

if __name__ == "__main__":
    run()
