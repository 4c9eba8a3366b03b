"""Worker processes: work dealt out block by block, results in order, no process left behind."""

from __future__ import annotations

import collections
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from rcmstr_jax.data.decode import prepare_process
from rcmstr_jax.runtime.errors import RunFailed

_T = TypeVar("_T")
_U = TypeVar("_U")
_PARENT_POLL_SECONDS = 2.0
# Blocks on their way per worker: enough that none waits, few enough to hold in memory.
_AHEAD = 4


def in_order(
    work: Callable[[_T], _U],
    tasks: Iterable[_T],
    workers: int,
    *,
    start: Callable[..., None],
    arguments: tuple[Any, ...] = (),
) -> Iterator[_U]:
    """`work(task)` of every task, in the order of the tasks, which are taken a few ahead.

    Args:
      work: a function of a module, as worker processes find it by its name.
      tasks: may be many, or never end.
      workers: processes; 0 works in this one.
      start: called with `arguments` in every process before its first task.

    Raises:
      ValueError: fewer than 0 workers.
      RunFailed: a worker process died.
    """
    if workers < 0:
        raise ValueError(f"--workers={workers}: give 0 or more")
    if workers == 0:
        start(*arguments)
        yield from map(work, tasks)
        return
    # Spawned, because a process that holds JAX's threads must not fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (start, arguments))
    waiting: collections.deque[Future[_U]] = collections.deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RunFailed(
            f"one of --workers={workers} processes died, most likely because memory ran out: give "
            "fewer, and run the same command again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_worker() -> None:
    """Prepares a worker process: Ctrl-C is the main process's business, and so is its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare_process()
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()


def parse_part(part: str) -> tuple[int, int]:
    """(number, count) of `I/N`, the part that one of N machines does; "" is the whole, (1, 1).

    Raises:
      ValueError: it is of another form, or I is not one of 1 to N.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part or "1/1")
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"--part={part}: give I/N with I from 1 to N, as in --part=3/16")
    return number, count


def _start(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    prepare_worker()
    start(*arguments)


def _exit_with(parent: int) -> None:
    # A main process that is killed cannot end its workers, which would wait for it for ever.
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(1)
