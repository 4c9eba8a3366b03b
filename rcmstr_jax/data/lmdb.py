"""Scene-text LMDBs: `num-samples`, `image-%09d`, `label-%09d`, counted from 1.

The layout is that of the field's published sets. An environment is opened once per process and
kept open; worker processes open their own.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb

from rcmstr_jax.data.folder import files_below
from rcmstr_jax.data.records import BadRecord, DataLost, Record, check_index, decode_label
from rcmstr_jax.runtime.files import whole_folder

_log = logging.getLogger(__name__)
# LMDB refuses to open a file twice in one process, so all sources of a process share these:
# file -> (process id, inode, environment).
_environments: dict[str, tuple[int, int, lmdb.Environment]] = {}
_FIRST_MAP_BYTES = 1 << 26
_COMMIT_EVERY = 1000
# A hidden folder that is being written, see `runtime.files.whole_folder` and `data.prepare`.
_DRAFT = re.compile(r"(^|/)\.[^/]*\.partial")
# A set is taken as unlabelled if none of so many records at its beginning has a label.
_LABEL_PROBES = 1000
_LAYOUT = "a scene-text LMDB has the keys num-samples, image-000000001, label-000000001, ..."


class LmdbSource:
    """Records of one scene-text LMDB.

    Attributes:
      path: folder that holds `data.mdb` (or the file itself).
      name: "lmdb:" and the path.
      labelled: whether labels are read and the set has some.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, labels: bool = True, image_key: str = "image"
    ) -> None:
        """Opens the LMDB and checks that it is one of this layout.

        Args:
          path: folder that holds `data.mdb`, or such a file.
          labels: whether to read labels; without them every text is None.
          image_key: what the keys of the images begin with, where a word has several.

        Raises:
          ValueError: missing, foreign, truncated or empty LMDB.
        """
        self.path = Path(path)
        self.name = f"lmdb:{self.path}"
        self._image_key = image_key
        self._pid = -1
        self._env: lmdb.Environment | None = None
        self._size = 0  # until it has been opened
        self._size = self._count_records()
        self.labelled = labels and self._has_labels()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        image, text, key = self._read(index, image=True)
        return Record(image, text, self.name, key)

    def label(self, index: int) -> str | None:
        """See `records.label_of`; of the image only the key is looked up."""
        return self._read(index, image=False)[1]

    def _read(self, index: int, *, image: bool) -> tuple[bytes, str | None, str]:
        check_index(index, len(self), self.name)
        number = index + 1
        key = f"{self._image_key}-{number:09d}"
        try:
            # Buffers point into the file: what is not copied is not read.
            with self._environment().begin(buffers=True) as transaction:
                found = transaction.get(key.encode())
                label = transaction.get(b"label-%09d" % number) if self.labelled else None
                missing, data = found is None, bytes(found) if image and found is not None else b""
                word = None if label is None else bytes(label)
        except lmdb.Error as error:
            raise BadRecord("LMDB read error", str(error), source=self.name, key=key) from error
        text = None if word is None else decode_label(word, self.name, key)
        if missing:
            raise BadRecord("missing image key", source=self.name, key=key, text=text)
        return data, text, key

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None, "_pid": -1}

    def _environment(self) -> lmdb.Environment:
        if self._env is None or self._pid != os.getpid():
            try:
                self._env = _open_once(self.path)
            except ValueError as error:
                if not self._size:
                    raise
                raise DataLost(
                    f"{self.name} was there when the run began and cannot be opened any more: "
                    f"{error}. Put the same LMDB back and run the same command again; it "
                    "continues from the newest checkpoint"
                ) from error
            self._pid = os.getpid()
        return self._env

    def _count_records(self) -> int:
        env = self._environment()
        with env.begin() as transaction:
            count = transaction.get(b"num-samples")
            if count is None:
                with transaction.cursor() as cursor:
                    keys = itertools.islice(cursor.iternext(keys=True, values=False), 3)
                    first = [bytes(key)[:40] for key in keys]
                raise ValueError(
                    f"{self.path} is an LMDB of another layout: it has no key num-samples and "
                    f"begins with {first}; {_LAYOUT}"
                )
        try:
            size = int(count)
        except ValueError:
            raise ValueError(
                f"{self.path}: num-samples is {count[:40]!r}, not a number; {_LAYOUT}"
            ) from None
        if size <= 0:
            raise ValueError(
                f"{self.path} is empty: num-samples is {size}; leave it out of the source, "
                "or write it again"
            )
        entries = env.stat()["entries"] - 1
        if size > entries:
            _log.warning(
                "%s: num-samples is %d, but there are at most %d images; the missing ones are "
                "counted as unusable",
                self.path,
                size,
                entries,
            )
        return size

    def _has_labels(self) -> bool:
        numbers = range(1, min(self._size, _LABEL_PROBES) + 1)
        with self._environment().begin() as transaction:
            return any(transaction.get(b"label-%09d" % n) is not None for n in numbers)


def find_lmdbs(root: str | os.PathLike[str]) -> list[Path]:
    """All LMDBs at or below a folder, in the order of their paths.

    Args:
      root: a folder with `data.mdb`, a folder of such folders at any depth, or an LMDB file.

    Raises:
      ValueError: nothing is there, or no `data.mdb` lies in it.
    """
    root = Path(root)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise ValueError(
            f"there is no LMDB at {root}: the path does not exist; give the folder that holds "
            "data.mdb, or a folder of such folders"
        )
    found = sorted(
        (root / file).parent
        for file in files_below(root)
        if Path(file).name == "data.mdb" and not _DRAFT.search(file)
    )
    if not found:
        raise ValueError(
            f"there is no LMDB under {root}: no file data.mdb in it or in a folder below; "
            "folders of images are read with folder:PATH"
        )
    return found


def write_lmdb(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Writes a scene-text LMDB; it appears at `path` when it is complete, or not at all.

    Args:
      path: folder to make, or an empty one.
      records: written in order; a text of None writes no label.

    Returns:
      The number of records.

    Raises:
      ValueError: something is there, or there are no records.
    """
    path = Path(path)
    if path.is_file() or (path.exists() and any(path.iterdir())):
        raise ValueError(f"{path} exists; delete it, or choose another place for the LMDB")
    with whole_folder(path) as draft, LmdbWriter(draft) as writer:
        for record in records:
            writer.add(record)
            if writer.count % _COMMIT_EVERY == 0:
                writer.commit()
        writer.finish()
    return writer.count


class LmdbWriter:
    """Appends records to a scene-text LMDB, which has no `num-samples` until it is finished.

    Attributes:
      count: records added, whether committed or not.
    """

    def __init__(self, folder: Path, count: int = 0) -> None:
        """Opens an LMDB.

        Args:
          folder: where it lies, or shall lie.
          count: committed records that are kept; those after them will be overwritten.

        Raises:
          ValueError: it holds fewer.
        """
        self.count = count
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(folder), map_size=_FIRST_MAP_BYTES, lock=False, sync=False)
        self._waiting: list[tuple[bytes, bytes]] = []
        with self._env.begin() as transaction:
            if count and transaction.get(b"image-%09d" % count) is None:
                raise ValueError(f"{folder} lacks record {count}, which it held: delete it")

    def add(self, record: Record) -> None:
        """Takes a record; a text of None writes no label."""
        self.count += 1
        self._waiting.append((b"image-%09d" % self.count, record.image))
        if record.text is not None:
            self._waiting.append((b"label-%09d" % self.count, record.text.encode("utf-8")))

    def commit(self, *, sync: bool = False) -> None:
        """Writes what was added; with `sync` to the disk itself."""
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._waiting:
                        # An empty value is legal in an LMDB and a legal (damaged) image for us.
                        transaction.put(key, value)
                break
            except lmdb.MapFullError:
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
        self._waiting = []
        if sync:
            self._env.sync(True)

    def finish(self) -> None:
        """Writes the rest and the number of records, and counts them.

        Raises:
          ValueError: there are none, or other ones than were added.
        """
        if not self.count:
            raise ValueError(f"no records to write to {self._folder}")
        self._waiting.append((b"num-samples", b"%d" % self.count))
        self.commit(sync=True)
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            cursor.set_range(b"image-")
            keys = cursor.iternext(keys=True, values=False)
            images = sum(1 for _ in itertools.takewhile(lambda k: bytes(k) < b"image.", keys))
        if images != self.count:
            raise ValueError(f"{self._folder} holds {images} images, not {self.count}: delete it")

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._env.close()


def _open_once(path: Path) -> lmdb.Environment:
    """The process's environment of an LMDB; opened at the first call."""
    file = path / "data.mdb" if path.is_dir() else path
    try:
        inode = file.stat().st_ino
    except OSError as error:
        raise ValueError(
            f"there is no LMDB at {path}: {file} cannot be read ({error.strerror}); give the "
            "folder that holds data.mdb"
        ) from error
    place = str(file.resolve())
    known = _environments.get(place)
    if known is not None:
        pid, known_inode, env = known
        if pid == os.getpid() and known_inode == inode:
            return env
        # A handle inherited through fork, or one of a file that has been replaced since.
        env.close()
        del _environments[place]
    try:
        env = lmdb.open(
            str(path),
            readonly=True,
            lock=False,
            readahead=False,
            subdir=path.is_dir(),
            max_spare_txns=8,
        )
    except lmdb.Error as error:
        raise ValueError(f"{path} cannot be opened as an LMDB: {error}; {_LAYOUT}") from error
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    actual = file.stat().st_size
    if actual < needed:
        env.close()
        # Reading on would end in a bus error at the first missing page.
        raise ValueError(
            f"{file} is truncated: {actual} bytes of {needed}; copy or download it again"
        )
    _environments[place] = (os.getpid(), inode, env)
    return env
