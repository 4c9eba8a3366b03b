r"""Serves a trained recogniser: a page to drop word images on, and a JSON endpoint.

  python launch/serve.py [DIR|compact] [--port=8000] [--host=127.0.0.1] [--batch_sizes=1,8,32]
  curl -F image=@word.png -F image=@other.png http://127.0.0.1:8000/read

DIR is the workdir of a finished launch/evaluate.py or a folder of weights; without it the packaged
weights `compact` read. Only this machine is answered unless --host says otherwise (0.0.0.0:
everybody who can reach it; there is neither encryption nor a password, put a proxy in front).
Images of all connections are read in common batches, each filled up to one of --batch_sizes, whose
programs are compiled before the first request. docs/serving.md: the endpoint, limits, figures.

Needs the extra serve. Exit codes: 0 stopped, 2 a mistake in the flags.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Sequence

from absl import flags

from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.compilation import enable_compilation_cache
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.serving.app import make_app
from rcmstr_jax.serving.batching import Batcher
from rcmstr_jax.serving.limits import Limits

HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
PORT = flags.DEFINE_integer("port", 8000, "Port; 0 takes a free one.", 0, 65535)
SIZES = flags.DEFINE_list("batch_sizes", ["1", "8", "32"], "Rows of a compiled batch.")


def batch_sizes(values: Sequence[str]) -> tuple[int, ...]:
    """Rows of the batches, ascending.

    Raises:
      ConfigError: a value that is no number of rows.
    """
    if not values or not all(value.isdecimal() and 0 < int(value) <= 4096 for value in values):
        given = ",".join(values)
        raise ConfigError(f"--batch_sizes={given}: give numbers from 1 to 4096, as in 1,8,32")
    return tuple(sorted({int(value) for value in values}))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      ConfigError: the address is not this machine's, or the port is taken or reserved.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--host={host} --port={port} cannot be listened on ({error}): give another port, or an"
            " address of this machine"
        ) from error
    return listening


def main(argv: Sequence[str]) -> int:
    """Serves until it is interrupted; returns the exit code."""
    with command_line.one_line_errors():
        if len(argv) > 2:
            raise ConfigError(f"{argv[2]!r} is one argument too many: give one recogniser")
        named = argv[1] if len(argv) > 1 else "compact"
        sizes = batch_sizes(SIZES.value)
        enable_compilation_cache("auto")
        try:
            recognizer = Recognizer.from_pretrained(named, batch_size=sizes[-1])
        except ValueError as error:
            raise ConfigError(str(error).replace("--pretrained=", "")) from error
        limits = Limits()
        app = make_app(Batcher(recognizer, sizes, limits.waiting), limits, named)
        uvicorn = importlib.import_module("uvicorn")
        with listen(HOST.value, PORT.value) as listening:
            where = "http://{}:{}".format(*listening.getsockname()[:2])
            print(f"{named} at {where} once {len(sizes)} programs are compiled", flush=True)
            config = uvicorn.Config(app, log_level="warning", access_log=False)
            uvicorn.Server(config).run(sockets=[listening])
    return 0


run = command_line.command(main, positional=True)  # rcmstr-serve

if __name__ == "__main__":
    run()
