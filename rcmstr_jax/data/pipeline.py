"""Batches of decoded words, on a Grain pipeline whose elements are whole batches.

The batch of step s is a pure function of (source, seed, s): a run resumes by starting at a later
step, worker processes take turns at the steps, and a host reads its own rows of each batch, so
that neither the number of hosts nor that of workers changes what is learnt from.
"""

from __future__ import annotations

import collections
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from absl import flags

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.decode import prepare_process
from rcmstr_jax.data.faults import Fault, FaultLog
from rcmstr_jax.data.loaders import Notes, RecordReader, load_evaluation, load_training
from rcmstr_jax.data.records import DataLost, RecordSource, is_endless
from rcmstr_jax.data.workers import prepare_worker

Batch = dict[str, Any]
_T = TypeVar("_T")
_U = TypeVar("_U")
# Steps of an endless run; a length that Grain's integers hold.
_LAST_STEP = 2**40
# Batches kept ready for evaluation.
_PREFETCH = 2
_NOTES = "notes"


class BatchIterator(Iterator[Batch]):
    """Iterator over batches; close it (or use `with`) to end its workers."""

    def __init__(self, batches: Iterator[Batch], faults: FaultLog | None) -> None:
        self._batches = batches
        self._faults = faults
        # Also at the end of the program; Grain's own closing comes too late there and complains.
        self._end = weakref.finalize(self, _close, batches)

    def __next__(self) -> Batch:
        try:
            batch = dict(next(self._batches))
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):  # Grain has no type for it
                raise
            raise DataLost(
                f"a data.workers process died ({error}): -7 means that a file of the data shrank "
                "while it was read, -9 that memory ran out. Restore the file, or lower "
                "data.workers, and run the same command again; it continues from the newest "
                "checkpoint"
            ) from error
        notes: Notes = batch.pop(_NOTES)
        if notes.texts is not None:
            batch["text"] = notes.texts
        if self._faults is not None:
            self._faults.extend(Fault(*fault) for fault in notes.faults)
            self._faults.flush()
        return batch

    def close(self) -> None:
        """Ends worker processes and threads, and writes the report of unusable records."""
        self._end()
        self._batches = iter(())
        if self._faults is not None:
            self._faults.write()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(batches: Iterator[Batch]) -> None:
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def train_batches(
    source: RecordSource | DecodedCache,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    seed: int,
    start_step: int = 0,
    host_index: int = 0,
    host_count: int = 1,
    workers: int = 0,
    prefetch: int = _PREFETCH,
    with_text: bool = False,
    faults: FaultLog | None = None,
) -> BatchIterator:
    """Endless training batches in a seeded global order.

    A finite source is shuffled anew for every epoch, across its whole length; a mixture and the
    renderer have an order of their own. A record that cannot be used is replaced by the next
    usable one of the order and noted.

    Args:
      source: records, or a `DecodedCache` of them (read without workers).
      batch_size: of all hosts together.
      image_size: (height, width) in pixels.
      seed: seed of the order.
      start_step: the step whose batch comes first.
      host_index: which rows to read: the host's consecutive share of each batch.
      host_count: number of hosts; divides the batch.
      workers: worker processes; 0 decodes in threads of this one.
      prefetch: batches kept ready (by each worker); 0 decodes when asked.
      with_text: add the words.
      faults: takes the unusable records as their batches are taken.

    Returns:
      Iterator of batches of b = batch_size / host_count rows: `image` uint8 (b, height, width,
      3) RGB; `index` int64 (b,), the example's number in the run, step * batch_size + row;
      with `with_text` `text`, a list of str or None.

    Raises:
      ValueError: an argument out of range or an empty source, at once; when a batch is taken,
        if hundreds of records in a row cannot be used.
    """
    rows = _host_rows(batch_size, host_index, host_count)
    _check_count("start_step", start_step, 0)
    if len(source) == 0:
        raise ValueError(f"source {source.name!r} is empty: there is nothing to train on")
    reader = _reader(source, image_size)
    load = functools.partial(
        load_training,
        reader=reader,
        batch_size=batch_size,
        rows=rows,
        seed=seed,
        with_text=with_text,
    )
    return _iterate(load, range(start_step, _LAST_STEP), reader, workers, prefetch, faults)


def eval_batches(
    source: RecordSource | DecodedCache,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    workers: int = 0,
    require_text: bool = False,
    faults: FaultLog | None = None,
) -> BatchIterator:
    """Every record of a finite source once, in order; the last batch is padded.

    Args:
      source: finite records, or a `DecodedCache` of them.
      batch_size: every batch has this size.
      image_size: (height, width) in pixels.
      workers: worker processes; 0 decodes in threads of this one.
      require_text: treat a record without a label as unusable.
      faults: takes the unusable records.

    Returns:
      Iterator of batches, the same on every host: `image` uint8 (b, height, width, 3) RGB;
      `weight` float32 (b,), 0 for padding; `valid` bool (b,), False for padding and for records
      that cannot be used: these keep weight 1, so that a score counts them as errors; `index`
      int64 (b,), the place in the source, -1 for padding; `text`, a list of str or None.

    Raises:
      ValueError: an argument out of range, an empty source, or one that never ends.
    """
    _check_count("batch_size", batch_size, 1)
    if is_endless(source) or getattr(source, "mixture", None) is not None:
        raise ValueError(
            f"source {source.name!r} never ends and cannot be gone through once; "
            "name a finite source to evaluate on"
        )
    if len(source) == 0:
        raise ValueError(f"source {source.name!r} is empty: there is nothing to evaluate on")
    reader = _reader(source, image_size)
    load = functools.partial(
        load_evaluation, reader=reader, batch_size=batch_size, require_text=require_text
    )
    batches = range(-(-len(source) // batch_size))
    return _iterate(load, batches, reader, workers, _PREFETCH, faults)


def prefetch_to_device(
    iterator: Iterable[_T], size: int, place: Callable[[_T], _U]
) -> Iterator[_U]:
    """Keeps `size` batches on the way to the accelerator.

    Args:
      iterator: batches on the host.
      size: how many to hold beyond the one in use; 0 places each when asked.
      place: starts the transfer and returns without waiting (`parallel.shard_batch`).

    Yields:
      What `place` returns, in order.
    """
    _check_count("prefetch", size, 0)
    waiting: collections.deque[_U] = collections.deque()
    for batch in iterator:
        waiting.append(place(batch))
        if len(waiting) > size:
            yield waiting.popleft()
    yield from waiting


def _iterate(
    load: Callable[[int], Batch],
    numbers: range,
    reader: RecordReader | DecodedCache,
    workers: int,
    prefetch: int,
    faults: FaultLog | None,
) -> BatchIterator:
    _check_count("data.workers", workers, 0)
    _check_count("data.prefetch", prefetch, 0)
    if isinstance(reader, DecodedCache):
        workers = 0  # Copying a cache to other processes costs more than indexing it here.
    prepare_process()
    import grain  # a second or more, which nothing else here needs

    steps = grain.MapDataset.range(numbers.start, numbers.stop).map(load)
    if workers == 0:
        threads = min(prefetch, os.cpu_count() or 1)
        batches = steps.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        )
    else:
        if not flags.FLAGS.is_parsed():
            # Grain asks absl about its own flags; outside an absl program they have defaults.
            flags.FLAGS.mark_as_parsed()
        # One thread in each worker: its batches come in order, the workers run side by side.
        batches = steps.to_iter_dataset(
            grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        ).mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=max(prefetch, 1)
            ),
            worker_init_fn=_start_worker,
        )
    return BatchIterator(iter(batches), faults)


def _reader(
    source: RecordSource | DecodedCache, image_size: tuple[int, int]
) -> RecordReader | DecodedCache:
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size is {image_size}; it must be (height, width) in pixels")
    if not isinstance(source, DecodedCache):
        return RecordReader(source, (image_size[0], image_size[1]))
    if source.image_size != tuple(image_size):
        raise ValueError(
            f"image_size is {image_size}, but {source.name!r} was decoded to "
            f"{source.image_size}; build the cache for this size"
        )
    return source


def _start_worker(index: int, count: int) -> None:
    del index, count
    prepare_worker()


def _host_rows(batch_size: int, host_index: int, host_count: int) -> range:
    _check_count("batch_size", batch_size, 1)
    _check_count("host_count", host_count, 1)
    if batch_size % host_count:
        raise ValueError(
            f"batch_size {batch_size} is not divisible by {host_count} hosts; "
            f"use a multiple of {host_count}"
        )
    if not 0 <= host_index < host_count:
        raise ValueError(f"host_index is {host_index}; it must be 0 to {host_count - 1}")
    share = batch_size // host_count
    return range(host_index * share, (host_index + 1) * share)


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
