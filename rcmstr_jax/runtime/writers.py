"""Where metrics go: TensorBoard events, JSON lines, and Weights & Biases where asked for."""

from __future__ import annotations

import importlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import write_text

# Scalars below this name measure the machine. They differ between two runs of the same command and
# are kept apart from metrics.jsonl, which does not.
SPEED = "speed/"
METRICS, SPEEDS = "metrics.jsonl", "speed.jsonl"
# Of the run of Weights & Biases that a workdir is logged to.
WANDB_ID = "wandb_id.txt"


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
    write_text(path, "".join(kept))


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

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


def find_wandb(project: str) -> Any:
    """The package that writes to Weights & Biases.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        found = importlib.import_module("wandb")
        found.init  # noqa: B018  a folder of this name, as offline runs leave it, is no package
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"--wandb={project} needs the package wandb: pip install 'rcmstr-jax[wandb]'"
        ) from error
    return found


class WandbWriter:
    """A run of Weights & Biases, one for a workdir however often it is continued.

    `WANDB_MODE=offline` writes into the workdir alone. Steps after a checkpoint that a restart
    computes again are there twice.
    """

    def __init__(self, project: str, workdir: Path) -> None:
        """Begins the run, or goes on with it.

        Raises:
          ConfigError: without the package, or an account where one is needed.
        """
        wandb, known = find_wandb(project), workdir / WANDB_ID
        if not known.exists():
            write_text(known, secrets.token_hex(8))
        try:
            self._run = wandb.init(
                project=project,
                id=known.read_text(encoding="utf-8").strip(),
                name=workdir.name,
                dir=str(workdir),
                resume="allow",
            )
        except wandb.Error as error:
            raise ConfigError(
                f"--wandb={project}: {error}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from error
        # Not its own counter, which never goes back.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Logs numbers of a step."""
        self._run.log({"step": step, **{name: float(value) for name, value in scalars.items()}})

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Shows what configures the run."""
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        """Sends what is queued."""
        self._run.finish()


class MetricWriter:
    """JSON lines and TensorBoard events (without TensorFlow); nothing on hosts that write no logs.

    TensorBoard hides older events after the last step.
    """

    def __init__(
        self, workdir: Path, last_step: int, *, writes: bool = True, wandb: str | None = None
    ) -> None:
        """Continues the files in `workdir`.

        Args:
          workdir: folder of the run.
          last_step: step of the restored checkpoint, 0 for a fresh run.
          writes: False on hosts that write no logs.
          wandb: project of Weights & Biases that takes them as well.

        Raises:
          ConfigError: see `WandbWriter`.
        """
        from tensorboardX import SummaryWriter

        self._wandb = WandbWriter(wandb, workdir) if wandb and writes else None
        self._lines = JsonLinesWriter(workdir, last_step) if writes else None
        self._events = SummaryWriter(
            str(workdir),
            purge_step=last_step + 1 if last_step else None,
            flush_secs=30,
            write_to_disk=writes,
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers of a step."""
        if self._lines is not None:
            self._lines.write_scalars(step, scalars)
        if self._wandb is not None:
            self._wandb.write_scalars(step, scalars)
        for name, value in scalars.items():
            self._events.add_scalar(name, float(value), step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Shows what configures the run, in TensorBoard as a table; config.json has it as well."""
        if self._wandb is not None:
            self._wandb.write_hparams(hparams)
        rows = "\n".join(f"| {name} | {value} |" for name, value in hparams.items())
        self._events.add_text("config", f"| field | value |\n| --- | --- |\n{rows}", 0)

    def close(self) -> None:
        """Writes what is queued, and releases."""
        if self._lines is not None:
            self._lines.close()
        self._events.close()
        if self._wandb is not None:
            self._wandb.close()
