"""Pictures of images that a command names: what launch/segment.py and launch/enhance.py do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from rcmstr_jax.data.decode import decode_image, decode_photograph, resize_image
from rcmstr_jax.dense.network import DenseNetwork, load_network
from rcmstr_jax.recognition.reading import STANDARD_INPUT, find_images, load_batches, printable
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.compilation import enable_compilation_cache
from rcmstr_jax.runtime.errors import EXIT_FAILED
from rcmstr_jax.runtime.files import write_bytes


def answer_command(
    task: str, checkpoint: str, paths: Sequence[str], out: Path, batch_size: int
) -> int:
    """Writes a picture of every image below `paths`, and prints a line for each.

    Args:
      task: that the network has to be trained for.
      checkpoint: workdir of the evaluation that trained it.
      paths: see `recognition.reading.find_images`.
      out: folder of the pictures; made.
      batch_size: images per call.

    Returns:
      The exit code: 0, or 1 where none of the images can be used.
    """
    with command_line.one_line_errors(mistakes=(ValueError,)):
        images, skipped = find_images(paths)
        targets = picture_paths(images, out)
        enable_compilation_cache("auto")
        network = load_network(checkpoint, task=task, batch_size=batch_size)
        out.mkdir(parents=True, exist_ok=True)
    network.compile()
    started, answered = time.perf_counter(), 0
    for (name, picture, error), target in zip(answers(network, images), targets, strict=True):
        if picture is None:
            print(f"{printable(name)}\t(not used: {error})", flush=True)
            continue
        write_bytes(target, cv2.imencode(".png", picture)[1].tobytes())
        print(f"{printable(name)}\t{printable(str(target))}", flush=True)
        answered += 1
    seconds = time.perf_counter() - started
    print(
        f"{answered} pictures written in {seconds:.2f} s, {answered / seconds:.1f} images per"
        f" second (without loading and compiling); {len(images) - answered} unreadable,"
        f" {skipped} other files skipped",
        file=sys.stderr,
    )
    return 0 if answered else EXIT_FAILED


def picture_paths(images: Sequence[str], out: Path) -> list[Path]:
    """Where the picture of each image goes: its name with .png, numbered where that is taken.

    Raises:
      ValueError: one of the images lies there, or `out` is a file.
    """
    if out.is_file():
        raise ValueError(f"--out={out} is a file: give a folder")
    given = {Path(image).resolve() for image in images if image != STANDARD_INPUT}
    found: dict[Path, None] = {}
    for image in images:
        stem = "input" if image == STANDARD_INPUT else Path(image).stem
        names = (out / f"{stem}{f'-{n}' if n > 1 else ''}.png" for n in count(1))
        found[next(path for path in names if path not in found)] = None
    overwritten = sorted(path.name for path in found if path.resolve() in given)
    if overwritten:
        raise ValueError(
            f"--out={out} holds {overwritten[0]}, which is an image to be used: give another folder"
        )
    return list(found)


def answers(
    network: DenseNetwork, names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """BGR or grey pictures of images; None for one that cannot be used, and why.

    A mask, 0 and 255, has the size of its image as it is stored; an enlargement is 32 x 128.
    """
    taken, masks = network.head.taken, network.task == "segmentation"

    def decode(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        if not masks:
            return decode_image(data, taken), taken
        whole = decode_photograph(data)
        return resize_image(whole[..., ::-1], taken), (whole.shape[1], whole.shape[0])

    for batch in load_batches(names, network.batch_size, decode):
        usable = [loaded[0] for _, loaded, _ in batch if loaded is not None]
        pictures = iter(network(np.stack(usable)) if usable else ())
        for name, loaded, error in batch:
            if loaded is None:
                yield name, None, error
            elif masks:
                grey = 255 * next(pictures)
                yield name, cv2.resize(grey, loaded[1], interpolation=cv2.INTER_NEAREST), ""
            else:
                yield name, next(pictures)[..., ::-1], ""
