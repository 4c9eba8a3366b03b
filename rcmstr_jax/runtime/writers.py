"""Where metrics go: TensorBoard events and JSON lines.

The methods have the names and arguments of clu's `MetricWriter` (whose own writers need
TensorFlow), so that any of its implementations can take their place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# Scalars below this name measure the machine. They differ between two runs of the same command and
# are kept apart from metrics.jsonl, which does not.
SPEED = "speed/"
METRICS, SPEEDS = "metrics.jsonl", "speed.jsonl"


class MetricWriter(Protocol):
    """What the loop needs of a writer."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers of a step."""

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes images `(H, W, C)` or `(N, H, W, C)`, uint8 or floats in [0, 1]."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts, read as Markdown."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes what configures the run."""

    def flush(self) -> None:
        """Hands everything to the operating system."""

    def close(self) -> None:
        """Flushes and releases."""


def keep_lines(path: Path, last_step: int) -> None:
    """Drops the lines of a JSON-lines file after `last_step`, and one that was cut while written.

    A restarted run computes the steps after its checkpoint again, and writes them again: so every
    step stands there once.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if step <= last_step:
            kept.append(line + "\n")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


class JsonLinesWriter:
    """`metrics.jsonl`: one line per logged step; `speed.jsonl` the same for `speed/...`.

    Every line is handed to the operating system before the checkpoint of its step is written: a
    line can be there without its checkpoint (and is dropped at the restart), not the reverse.
    """

    def __init__(self, workdir: Path, last_step: int = 0) -> None:
        """Continues the files in `workdir` after `last_step`."""
        self._files = {}
        for name in (METRICS, SPEEDS):
            keep_lines(workdir / name, last_step)
            self._files[name] = (workdir / name).open("a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends a line to each of the two files that has something to say."""
        numbers = {name: float(value) for name, value in scalars.items()}
        for file, belongs in ((METRICS, False), (SPEEDS, True)):
            line = {k: v for k, v in numbers.items() if k.startswith(SPEED) == belongs}
            if line:
                try:
                    self._files[file].write(json.dumps({"step": step, **line}) + "\n")
                    self._files[file].flush()
                except OSError as error:  # which does not say by itself what was written
                    raise OSError(error.errno, error.strerror, self._files[file].name) from error

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Nothing: JSON lines hold numbers."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Nothing: JSON lines hold numbers."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Nothing: the config stands in config.json."""

    def flush(self) -> None:
        """Hands everything to the operating system."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


class TensorBoardWriter:
    """Event files for TensorBoard, written without TensorFlow."""

    def __init__(self, workdir: Path, last_step: int = 0) -> None:
        """Starts an event file in `workdir`; TensorBoard hides older events after `last_step`."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(workdir), purge_step=last_step + 1 if last_step else None, flush_secs=30
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds a point to each curve."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Adds images."""
        for name, value in images.items():
            array = np.asarray(value)
            add = self._writer.add_images if array.ndim == 4 else self._writer.add_image
            add(name, array, step, dataformats="NHWC" if array.ndim == 4 else "HWC")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Adds texts."""
        for name, value in texts.items():
            self._writer.add_text(name, value, step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Adds the settings as a table."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in hparams.items())
        self._writer.add_text("config", f"| field | value |\n| --- | --- |\n{rows}", 0)

    def flush(self) -> None:
        """Writes what is queued."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and ends the writer's thread."""
        self._writer.close()


class MultiWriter:
    """Passes everything on to several writers; to none on hosts that write no logs."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        """Takes the writers over."""
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """To every writer."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """To every writer."""
        for writer in self._writers:
            writer.write_images(step, images)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """To every writer."""
        for writer in self._writers:
            writer.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """To every writer."""
        for writer in self._writers:
            writer.write_hparams(hparams)

    def flush(self) -> None:
        """Flushes every writer."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes every writer."""
        for writer in self._writers:
            writer.close()


def create_writer(workdir: Path, last_step: int, *, writes: bool = True) -> MetricWriter:
    """TensorBoard and JSON lines in `workdir`, continued after `last_step`.

    Args:
      workdir: folder of the run.
      last_step: step of the restored checkpoint, 0 for a fresh run.
      writes: False on hosts that write no logs.
    """
    if not writes:
        return MultiWriter(())
    return MultiWriter((JsonLinesWriter(workdir, last_step), TensorBoardWriter(workdir, last_step)))
