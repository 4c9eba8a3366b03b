"""Downloads to LMDBs or TFDS datasets: in parallel, counted, resumable, whole or not at all.

Words go through in blocks. What is finished lies in a hidden folder beside the target (an LMDB per
set and `progress.json`, written after the LMDB has reached the disk), so that the same command goes
on where a killed one stopped; it takes the target's place when everything is there.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rcmstr_jax.data.annotations import Item
from rcmstr_jax.data.benchmarks import ACCEPTED_SIZES, RULES, registered_name
from rcmstr_jax.data.faults import Fault
from rcmstr_jax.data.formats import check_format, write_words
from rcmstr_jax.data.lmdb import LmdbSource, LmdbWriter
from rcmstr_jax.data.prepare.crops import Filtered, Job, Outcome, crop_block, start
from rcmstr_jax.data.prepare.forms import FORMS
from rcmstr_jax.data.prepare.leaks import hash_benchmarks
from rcmstr_jax.data.workers import in_order, parse_part
from rcmstr_jax.runtime.files import from_json, held, whole_folder, write_json

NOTE, SKIPPED = "prepare.json", "skipped.jsonl"
_PROGRESS, _MADE = "progress.json", "sets"
# Words that a worker takes at once, and that a part (`--part`) is made of.
BLOCK = 256
# Finished words are brought to the disk after so many.
_COMMIT_EVERY = 8 * BLOCK
_FAULTS_IN_NOTE = 100
# Names of the sets that a split makes, by their number.
SETS = {1: ("",), 2: ("train", "validation"), 3: ("train", "validation", "test")}


@dataclass
class Counts:
    """What became of the words of an annotation.

    Attributes:
      listed: words and faulty lines in the annotation (in its part).
      filtered: words that the filter leaves out.
      sets: words in each new set.
      by_reason: words that cannot be used, by reason.
      faults: the first of them.
    """

    listed: int = 0
    filtered: int = 0
    sets: list[int] = field(default_factory=lambda: [0])
    by_reason: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def written(self) -> int:
        """Words in all new sets."""
        return sum(self.sets)

    def reasons(self) -> dict[str, int]:
        """Number of faults per reason, in order of the reasons."""
        return dict(sorted(self.by_reason.items()))


def parse_split(split: str) -> tuple[float, ...]:
    """Shares of `0.9,0.1` (train, validation) or `0.8,0.1,0.1` (and test); "" is one set.

    Raises:
      ValueError: they are no two or three positive numbers that add up to 1.
    """
    try:
        shares = tuple(map(float, split.split(","))) if split else (1.0,)
    except ValueError:
        shares = ()
    good = len(shares) in SETS and all(0 < share <= 1 for share in shares)
    if not good or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"--split={split}: give two shares (train, validation) or three (and test) that add up"
            " to 1, as in --split=0.9,0.1"
        )
    return shares


def prepare(
    form: str,
    source: str | Path,
    out: str | Path,
    *,
    annotation: str | None = None,
    rule: str = "all",
    expect: int | None = None,
    kind: str = "lmdb",
    split: str = "",
    seed: int = 0,
    part: str = "",
    exclude_like: str = "",
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Converts one split of a download; the same call goes on with an interrupted one.

    Args:
      form: a key of `forms.FORMS`.
      source: folder of the download. Nothing outside it is read.
      out: folder to make; it must not exist. `prepare.json` with the counts lies in it, and
        `skipped.jsonl`, which names every word that was left out.
      annotation: annotation file, relative to `source` or not; found by its name if None.
      rule: a key of `benchmarks.RULES`, applied to the labels.
      expect: number of words that must result.
      kind: of `formats.FORMATS`.
      split: see `parse_split`; the sets lie in folders of `out`.
      seed: of the split.
      part: see `workers.parse_part`: every N-th block, into `out/part-0000I-of-0000N`. All parts
        together hold what the whole does.
      exclude_like: benchmarks whose near-duplicates are left out; "" compares with none.
      workers: processes; 0 works in this one. The result is the same.
      progress: called with the number of words done.

    Returns:
      The counts. Faulty words are left out.

    Raises:
      ValueError: an impossible argument, no usable word, or another number than expected. Then
        nothing has been written.
      RunFailed: a worker process died; what is finished is kept.
    """
    source, out = Path(source), Path(out)
    if form not in FORMS:
        raise ValueError(f"--from={form} is unknown; choose one of {', '.join(FORMS)}")
    if rule not in RULES:
        raise ValueError(f"--filter={rule} is unknown; choose one of {', '.join(RULES)}")
    check_format(kind)
    shares, (number, parts) = parse_split(split), parse_part(part)
    if not source.is_dir():
        what = "is a file: unpack it and give the folder" if source.is_file() else "does not exist"
        raise ValueError(f"--source={source} {what}")
    if parts > 1:
        out = out / f"part-{number:05d}-of-{parts:05d}"
    if out.exists():
        raise ValueError(f"--out={out} exists; delete it, or name another folder")
    path = FORMS[form].find_annotation(source) if annotation is None else source / annotation
    if annotation is not None and not FORMS[form].annotations:
        raise ValueError(f"--annotation={annotation}: --from={form} takes none")
    if not path.exists() or (path.is_dir() and path != source):
        raise ValueError(f"--annotation={annotation}: there is no {path}")
    request = {
        "form": form, "source": str(source), "annotation": str(path), "filter": rule,
        "split": split, "seed": seed, "part": part, "exclude_like": exclude_like,
        "changed": path.stat().st_mtime_ns,
    }  # fmt: skip
    known = hash_benchmarks(exclude_like) if exclude_like else None
    job = Job(form, source, path, rule, shares, seed, known)
    with _Draft(out, request, len(shares)) as draft:
        blocks = itertools.islice(_batched(FORMS[form].read(path)), number - 1, None, parts)
        if draft.blocks and progress is not None:
            progress(draft.counts.listed)
        todo = itertools.islice(blocks, draft.blocks, None)
        for outcomes in in_order(crop_block, todo, workers, start=start, arguments=(job,)):
            draft.add(outcomes)
            if progress is not None:
                progress(draft.counts.listed)
        counts = draft.counts
        draft.commit()
        left_out = f"({counts.filtered} filtered by {rule}, faults: {counts.reasons()})"
        if not counts.listed and parts > 1:
            raise ValueError(
                f"--part={part}: there are no words left for it; {path} has few, and needs fewer"
                f" parts (a part is made of blocks of {BLOCK} words)"
            )
        if not all(counts.sets):
            where = f" for {SETS[len(shares)][counts.sets.index(0)]}" if len(shares) > 1 else ""
            raise ValueError(f"{path}: no usable word{where} among {counts.listed} {left_out}")
        if expect is not None and counts.written != expect:
            raise ValueError(
                f"--expect={expect}, but {counts.written} of {counts.listed} words remain"
                f" {left_out}; nothing was written"
            )
        draft.finish(kind, describe(counts, out) | request)
    return counts


def describe(counts: Counts, out: str | Path) -> dict[str, Any]:
    """Counts, faults, and whether the number is one under which the set is published.

    `accepted` is None where the folder's name is no registered one or the set has no fixed size.
    """
    sizes = ACCEPTED_SIZES.get(registered_name(Path(out).name) or "", ())
    return {
        "listed": counts.listed,
        "filtered": counts.filtered,
        "written": counts.written,
        "sets": dict(zip(SETS[len(counts.sets)], counts.sets, strict=True)),
        "faults_by_reason": counts.reasons(),
        "faults": [fault._asdict() for fault in counts.faults],
        "accepted_sizes": list(sizes),
        "accepted": counts.written in sizes if sizes else None,
    }


def _batched(items: Iterable[Item | Fault]) -> Iterator[list[Item | Fault]]:
    items = iter(items)
    while block := list(itertools.islice(items, BLOCK)):
        yield block


class _Draft:
    """The hidden folder that takes what is finished.

    Attributes:
      counts: of everything that was added, also by an interrupted call.
      blocks: number of blocks that were added.
    """

    def __init__(self, out: Path, request: dict[str, Any], sets: int) -> None:
        self.counts, self.blocks = Counts(sets=[0] * sets), 0
        self._out = out
        self._folder = out.with_name(f".{out.name}.partial")
        self._request = request
        self._committed = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Draft:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(held(self._folder, f"--out={self._out}"))
        file, skipped = self._folder / _PROGRESS, 0
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            before = found["request"]
            changed = [name for name in before if before[name] != self._request.get(name)]
            if changed:
                self._stack.close()
                raise ValueError(
                    f"--out={self._out}: an interrupted run with another {', '.join(changed)} lies"
                    f" in {self._folder}; give the same flags to go on with it, or delete it"
                )
            self.blocks, skipped = found["blocks"], found["skipped"]
            self.counts = from_json(Counts, found["counts"] | {"faults": []})
            self.counts.faults = [Fault(*fault) for fault in found["counts"]["faults"]]
        self._skipped: TextIO = (self._folder / SKIPPED).open("a", encoding="utf-8")
        self._skipped.truncate(skipped)
        self._skipped.seek(0, os.SEEK_END)
        self._committed = self.counts.listed
        self._writers = [
            self._stack.enter_context(LmdbWriter(self._folder / _MADE / name, count))
            for name, count in zip(SETS[len(self.counts.sets)], self.counts.sets, strict=True)
        ]
        self._stack.callback(self._skipped.close)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if kind is None or issubclass(kind, ValueError):
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Takes a block."""
        counts = self.counts
        reasons = collections.Counter(counts.by_reason)
        for outcome in outcomes:
            counts.listed += 1
            if isinstance(outcome, Fault):
                reasons[outcome.reason] += 1
                if len(counts.faults) < _FAULTS_IN_NOTE:
                    counts.faults.append(outcome)
                self._name(outcome._asdict())
            elif isinstance(outcome, Filtered):
                counts.filtered += 1
                self._name({"key": outcome.key, "reason": "filtered", "detail": outcome.text})
            else:
                number, record = outcome
                counts.sets[number] += 1
                self._writers[number].add(record)
        counts.by_reason = dict(reasons)
        self.blocks += 1
        if counts.listed - self._committed >= _COMMIT_EVERY:
            self.commit()

    def _name(self, skipped: dict[str, str]) -> None:
        self._skipped.write(json.dumps(skipped) + "\n")

    def commit(self) -> None:
        """Brings what was added to the disk, and only then says that it is there."""
        for writer in self._writers:
            writer.commit(sync=True)
        self._skipped.flush()
        self._committed = self.counts.listed
        write_json(
            self._folder / _PROGRESS,
            {
                "request": self._request,
                "blocks": self.blocks,
                "skipped": self._skipped.tell(),
                "counts": dataclasses.asdict(self.counts),
            },
        )

    def finish(self, kind: str, note: dict[str, Any]) -> None:
        """Puts the sets in the place of `out`, with the note and the list of skipped words."""
        made = self._folder / _MADE
        names = dict(zip(SETS[len(self._writers)], self.counts.sets, strict=True))
        for writer in self._writers:
            writer.finish()
            writer.__exit__()
        if kind == "lmdb":  # in one step, so that a run that is killed here can go on as well
            self._describe(made, note)
            made.rename(self._out)
            return
        with whole_folder(self._out) as whole:
            for name, count in names.items():
                records = map(LmdbSource(made / name).__getitem__, range(count))
                write_words(whole / name, records, kind, "WordCrops")
            self._describe(whole, note)

    def _describe(self, folder: Path, note: dict[str, Any]) -> None:
        if self._skipped.tell():
            shutil.copy(self._folder / SKIPPED, folder)
        write_json(folder / NOTE, note)
