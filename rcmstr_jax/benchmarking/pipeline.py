"""The input: decoding words, and whole batches from LMDB to uint8 arrays."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from rcmstr_jax.benchmarking.cases import Case, Program, Settings
from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.decode import UndecodableImage, decode_image, prepare_process
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.pipeline import train_batches
from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.data.sources import open_source

WORDS = 4096  # in one repetition
# How a host reads: name -> (worker processes, whether decoded images are kept in memory).
READERS = {
    "threads": (0, False),
    "1 worker": (1, False),
    "2 workers": (2, False),
    "decoded cache": (0, True),
}


def _sources(settings: Settings) -> dict[str, Callable[[str], RecordSource]]:
    """Sources by name; each takes a folder that it may write to."""

    def rendered(folder: str) -> RecordSource:
        words = open_source(f"synthetic:0:{WORDS}")
        path = Path(folder) / "words"
        write_lmdb(path, (words[i] for i in range(WORDS)))
        return open_source(f"lmdb:{path}", labels=False)

    sources: dict[str, Callable[[str], RecordSource]] = {"rendered": rendered}
    if settings.source:
        sources["real"] = lambda folder: open_source(settings.source, labels=False)
    return sources


def decode_cases(settings: Settings) -> list[Case]:
    """Decoding and resizing encoded images that lie in memory, in one thread."""
    size = (32, settings.image_width)

    def prepare(make: Callable[[str], RecordSource]) -> Program:
        with tempfile.TemporaryDirectory() as folder:
            source = make(folder)
            images = [source[i % len(source)].image for i in range(WORDS)]
        prepare_process()

        def run() -> None:
            for image in images:
                try:
                    decode_image(image, size)
                except UndecodableImage:  # the published sets hold a few
                    continue

        return Program(run)

    return [
        Case("decode", name, lambda m=make: prepare(m), WORDS)  # type: ignore[misc]
        for name, make in _sources(settings).items()
    ]


def pipeline_cases(settings: Settings) -> list[Case]:
    """Batches as training takes them: LMDB, decoding, resizing, collation, hand-over."""
    steps = -(-WORDS // settings.batch)

    def prepare(make: Callable[[str], RecordSource], workers: int, cache: bool) -> Program:
        size = (32, settings.image_width)
        folder = tempfile.TemporaryDirectory()
        source = make(folder.name)
        batches = train_batches(
            DecodedCache.build(source, size) if cache else source,
            batch_size=settings.batch,
            image_size=size,
            seed=0,
            workers=workers,
        )

        def run(held: object = folder) -> None:  # the folder goes when the program goes
            for _ in itertools.islice(batches, steps):
                pass

        return Program(run)

    return [
        Case(
            "pipeline",
            f"{name}, {reader}",
            lambda m=make, w=workers, c=cache: prepare(m, w, c),  # type: ignore[misc]
            steps * settings.batch,
        )
        for name, make in _sources(settings).items()
        for reader, (workers, cache) in READERS.items()
    ]
