"""Sets of words on disk: an LMDB, or a TFDS dataset in array_record files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record

FORMATS = ("lmdb", "tfds")


def check_format(form: str) -> None:
    """Raises ValueError if `form` is none of `FORMATS`."""
    if form not in FORMATS:
        raise ValueError(f"--format={form} is unknown; choose one of {', '.join(FORMATS)}")


def write_words(
    folder: Path, records: Iterable[Record], form: str, builder: str = "SyntheticWords"
) -> int:
    """Fills an empty folder.

    Args:
      folder: of the set.
      records: written in order.
      form: of `FORMATS`.
      builder: class of `synthetic.builder`, which names the TFDS dataset.

    Returns:
      The number of records.

    Raises:
      ValueError: there are no records.
    """
    if form == "lmdb":
        return write_lmdb(folder, records)
    from rcmstr_jax.data.synthetic import builder as builders

    records = iter(records)
    first = next(records, None)
    if first is None:
        raise ValueError(f"no records to write to {folder}")
    dataset = getattr(builders, builder)(
        records=itertools.chain([first], records),
        data_dir=str(folder),
        file_format="array_record",
    )
    dataset.download_and_prepare()
    return int(dataset.info.splits[builders.SPLIT].num_examples)
