r"""Reads word images with a trained recogniser.

  python launch/recognize.py [--checkpoint=DIR] [--json] IMAGE... | FOLDER | -

DIR is the workdir of a finished launch/evaluate.py or a folder of weights; without it the packaged
weights `compact` read. Every image is one word, cropped. A folder stands for the images
in and below it, other files are skipped and counted; `-` is one image on standard input. Prints a
line per image: path, text and confidence, or with `--json` an object that also holds the confidence
of every character. Counts and speed go to standard error.

Exit codes: 0 read, 1 none of the images could be read, 2 a mistake in the flags or paths.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from absl import flags, logging

from rcmstr_jax.recognition.reading import VERTICAL as VERTICAL_WAYS
from rcmstr_jax.recognition.reading import Answer, find_images, printable, read_images
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.compilation import enable_compilation_cache
from rcmstr_jax.runtime.errors import EXIT_FAILED

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "compact", "Name of packaged weights, folder of weights, or evaluation's workdir."
)
JSON = flags.DEFINE_bool("json", False, "Print a JSON object per image.")
VERTICAL = flags.DEFINE_enum(
    "vertical", "off", VERTICAL_WAYS, "Turn crops much higher than wide; auto: what is read best."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per call.", lower_bound=1)


def line(answer: Answer) -> str:
    """What is printed about an image."""
    if JSON.value:
        return json.dumps(answer.as_dict(), ensure_ascii=False)
    name = printable(answer.name)
    if answer.word is None:
        return f"{name}\t(not read: {answer.error})"
    return f"{name}\t{answer.word.text}\t{answer.word.confidence:.4f}"


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    logging.set_verbosity(logging.ERROR)  # of the libraries below; what cannot be read is printed
    with command_line.one_line_errors(mistakes=(ValueError,)):
        images, skipped = find_images(argv[1:])
        enable_compilation_cache("auto")
        try:
            recognizer = Recognizer.from_pretrained(
                str(CHECKPOINT.value), batch_size=BATCH_SIZE.value
            )
        except ValueError as error:
            raise ValueError(str(error).replace("--pretrained=", "--checkpoint=")) from error
    recognizer.compile()
    started = time.perf_counter()
    read = unreadable = 0
    for answer in read_images(recognizer, images, str(VERTICAL.value)):
        print(line(answer), flush=True)
        read, unreadable = read + (answer.word is not None), unreadable + (answer.word is None)
    seconds = time.perf_counter() - started
    print(
        f"{read} images read in {seconds:.2f} s, {read / seconds:.1f} images per second (without"
        f" loading and compiling); {unreadable} unreadable, {skipped} other files skipped",
        file=sys.stderr,
    )
    return 0 if read else EXIT_FAILED


run = command_line.command(main, positional=True)  # rcmstr-recognize

if __name__ == "__main__":
    run()
