r"""Loads a running rcmstr-serve: latency, words per second, and the server's memory.

  python -m rcmstr_jax.benchmarking.serving URL IMAGES [CONCURRENT] [REQUESTS] [PID]

Every connection sends one image of the folder IMAGES after the other and waits for each answer.
PID is the server's, of which the memory is read before, after every tenth and after (Linux).
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from rcmstr_jax.recognition.reading import find_images

_BOUNDARY = "rcmstr"


def request(host: str, image: bytes) -> bytes:
    """A whole HTTP request with one image."""
    head = 'Content-Disposition: form-data; name="image"; filename="word"'
    body = f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    lines = [
        "POST /read HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def connection(
    host: str,
    port: int,
    requests: Iterator[bytes],
    seconds: list[float],
    statuses: Counter[int],
    answered: Callable[[int], None],
) -> None:
    """Sends requests until there are none left; appends how long each took, and tells how many."""
    reader, writer = await asyncio.open_connection(host, port)
    for message in requests:
        started = time.perf_counter()
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - started)
        statuses[int(head.split()[1])] += 1
        answered(len(seconds))
    writer.close()


async def load(
    url: str,
    images: Sequence[bytes],
    concurrent: int,
    count: int,
    answered: Callable[[int], None] = lambda number: None,
) -> str:
    """Sends `count` requests over so many connections; returns what to tell.

    Args:
      url: of the server.
      images: encoded, sent one after the other.
      concurrent: connections.
      count: requests.
      answered: is told how many answers there are, after each.
    """
    where = urlsplit(url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    messages = [request(f"{host}:{port}", image) for image in images]
    requests = itertools.islice(itertools.cycle(messages), count)
    seconds: list[float] = []
    statuses: Counter[int] = Counter()
    started = time.perf_counter()
    shared = (host, port, requests, seconds, statuses, answered)
    await asyncio.gather(*(connection(*shared) for _ in range(concurrent)))
    spent = time.perf_counter() - started
    middle, most = (1000 * x for x in np.percentile(seconds, [50, 99]))
    return (
        f"{concurrent} at a time: {count / spent:.0f} words per second, median {middle:.0f} ms,"
        f" 99 % within {most:.0f} ms, answers {dict(statuses)}"
    )


def memory(process: str) -> float:
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    kilobytes = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
    return int(kilobytes) / 1000


def main(arguments: Sequence[str]) -> None:
    """Runs the load that the command line describes."""
    if not 2 <= len(arguments) <= 5:
        sys.exit((__doc__ or "").partition("\n\n")[2])
    defaults = ("32", "1000", "")[len(arguments) - 2 :]
    url, folder, concurrent, count, process = (*arguments, *defaults)
    images = [Path(name).read_bytes() for name in find_images([folder])[0]]
    readings = [memory(process)] if process else []
    tenth = max(1, int(count) // 10)

    def answered(number: int) -> None:
        if process and number % tenth == 0:
            readings.append(memory(process))

    print(asyncio.run(load(url, images, int(concurrent), int(count), answered)))
    if process:
        print(f"memory of the server, MB: {' '.join(f'{reading:.0f}' for reading in readings)}")


if __name__ == "__main__":
    main(sys.argv[1:])
