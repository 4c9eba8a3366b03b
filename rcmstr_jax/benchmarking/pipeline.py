"""The input: decoding words, and whole batches from LMDB to uint8 arrays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable

from rcmstr_jax.benchmarking.cases import Case, Program, Settings
from rcmstr_jax.benchmarking.report import Row
from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.decode import UndecodableImage, decode_image, prepare_process
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.pipeline import train_batches
from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.data.sources import open_source

WORDS = 4096  # rendered ones, and at least in one repetition
_PREFETCH = 2
# A repetition has so many times the words that lie in buffers when it begins: they are refilled
# while other cases have their turn, and cost it nothing.
_BUFFERS = 32
_CACHE = "decoded cache"


def worker_counts(cores: int) -> list[int]:
    """0 (threads), 1, 2, 4 and so on, and as many as there are cores."""
    return sorted({0, *(2**i for i in range(cores.bit_length())), cores})


def words_per_repetition(batch: int, workers: int) -> int:
    """Whole batches, at least `WORDS` words and `_BUFFERS` times what is buffered."""
    wanted = max(WORDS, _BUFFERS * max(workers, 1) * _PREFETCH * batch)
    return -(-wanted // batch) * batch


def _sources(settings: Settings) -> dict[str, Callable[[str], RecordSource]]:
    """Sources by name; each takes a folder that it may write to."""

    def rendered(folder: str) -> RecordSource:
        words = open_source(f"synthetic:0:{WORDS}")
        write_lmdb(f"{folder}/words", (words[i] for i in range(WORDS)))
        return open_source(f"lmdb:{folder}/words", labels=False)

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
                with contextlib.suppress(UndecodableImage):  # the published sets hold a few
                    decode_image(image, size)

        return Program(run)

    return [
        Case("decode", name, functools.partial(prepare, make), WORDS)
        for name, make in _sources(settings).items()
    ]


def pipeline_cases(settings: Settings) -> list[Case]:
    """Batches as training takes them: LMDB, decoding, resizing, collation, hand-over.

    In threads, in worker processes up to the number of cores, and from decoded images in memory.
    """
    counts = worker_counts(os.cpu_count() or 1)
    readers = {f"{n} worker{'s' * (n > 1)}" if n else "threads": n for n in counts}

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
            prefetch=_PREFETCH,
        )
        steps = words_per_repetition(settings.batch, workers) // settings.batch

        def run(held: object = folder) -> None:  # the folder goes when the program goes
            for _ in itertools.islice(batches, steps):
                pass

        return Program(run)

    return [
        Case(
            "pipeline",
            f"{name}, {reader}",
            functools.partial(prepare, make, workers, reader == _CACHE),
            words_per_repetition(settings.batch, workers),
            {"set": name, "workers": None if reader == _CACHE else workers},
        )
        for name, make in _sources(settings).items()
        for reader, workers in {**readers, _CACHE: 0}.items()
    ]


def describe_workers(rows: Iterable[Row]) -> list[str]:
    """Per set the smallest number of workers within a twentieth of the fastest."""
    speeds: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["workers"] is not None:
            speeds.setdefault(row["set"], {})[row["workers"]] = row["words_per_second"]
    return [
        f"{name}: data.workers={min(n for n, s in of.items() if s >= 0.95 * max(of.values()))} is "
        "the smallest within 5 % of the fastest"
        for name, of in speeds.items()
    ]
