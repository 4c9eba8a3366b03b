"""Checkpoints that are whole or absent, checked by digest, and exact (orbax underneath).

A checkpoint of step `s` lies in `WORKDIR/checkpoints/s` and holds every array of the training state
after `s` finished steps, and beside it: the resolved config, the version of the code, the position
in the data, the shape of each array, and a SHA-256 over all of them. The digest is compared after
reading, so that a flipped bit is found even where the file format would not notice.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.digest import (
    METADATA_DIGEST,
    CheckpointMismatch,
    check_shapes,
    host_arrays,
    leaf_name,
    metadata_digest,
    named_arrays,
    shapes_of,
    state_digest,
)
from rcmstr_jax.runtime.distributed import flags_of_hosts
from rcmstr_jax.runtime.errors import RunFailed, in_one_line
from rcmstr_jax.runtime.provenance import DataPosition, check_position, code_version

logger = logging.getLogger(__name__)
# What is opened to be read alone is read-only: Orbax would warn of it each time.
logging.getLogger("absl").addFilter(lambda record: "directory is read only" not in str(record.msg))

CHECKPOINTS = "checkpoints"
UNREADABLE = "checkpoints_unreadable"
_META = {"digest", "shapes", "config", "position"}
_Shapes = Mapping[str, list[Any]] | None
_Found = tuple[int, dict[str, Any], dict[str, np.ndarray]]


class CheckpointError(RunFailed):
    """No checkpoint could be written or read; the message says where and why."""


class _Unreadable(Exception):
    """One checkpoint is damaged."""


class Restored(NamedTuple):
    """A training state and the metadata that was stored beside it."""

    step: int
    state: Any
    config: dict[str, Any]


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves it to `interrupts.StopRequest` to ask whether to stop.

    Orbax would ask in every save, by the absolute step. JAX stops all processes one after the
    highest count that it was asked with; the loop counts from 1 and would not come there.
    """

    def reached_preemption(self, step: int) -> bool:
        """False: what is saved is saved whatever the answer is."""
        del step
        return False


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep: int = 3,
        keep_period: int = 0,
        read_only: bool = False,
    ) -> None:
        """Opens `workdir/checkpoints`, and creates it unless `read_only`.

        Args:
          workdir: folder of the run.
          keep: newest checkpoints that stay.
          keep_period: every checkpoint whose step this number divides stays as well (0: none).
          read_only: neither create, nor delete, nor move anything.

        Raises:
          CheckpointError: if the folder cannot be created or is not there to be read.
        """
        self.workdir = Path(workdir).absolute()
        self.directory = self.workdir / CHECKPOINTS
        self._read_only = read_only
        if read_only and not self.directory.is_dir():
            raise CheckpointError(
                f"{self.workdir} holds no folder {CHECKPOINTS!r}: give the --workdir of a "
                "pretraining run"
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            keep_period=keep_period or None,
            create=not read_only,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            cleanup_tmp_directories=not read_only,  # what a killed process left half-written
        )
        # Of a single process: hashes and hands over while the next steps are taken.
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._started: Future[str] | None = None
        try:
            self._manager = _Manager(self.directory, options=options)
        except OSError as error:
            raise CheckpointError(
                f"cannot write checkpoints below workdir {self.workdir}: {error}"
            ) from error

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, newest first."""
        self._settle()
        return self._steps()

    def _steps(self) -> list[int]:
        return sorted(self._manager.all_steps(), reverse=True)

    def _settle(self) -> None:
        """Returns when the last checkpoint has been hashed and handed over."""
        started, self._started = self._started, None
        if started is not None:
            started.result()

    def save(
        self,
        step: int,
        state: Any,
        config: Mapping[str, Any],
        position: DataPosition,
        *,
        owned: bool = False,
    ) -> Future[str]:
        """Starts writing a checkpoint in the background; the state may be changed at once.

        Of a single process that is hashing too; several have to meet, and hash before that.

        Args:
          step: number of finished steps.
          state: host or single-device pytree of arrays.
          config: resolved config of the run.
          position: of the data.
          owned: the NumPy arrays of the state are not changed any more, and not copied.

        Returns:
          The state's digest, when it has been computed.

        Raises:
          CheckpointError: if this or the previous, asynchronous, write failed.
        """
        self._settle()
        arrays = host_arrays(state) if owned else named_arrays(state)
        plain = config_to_jsonable(config)
        if jax.process_count() == 1:
            self._started = self._writer.submit(self._write, step, arrays, plain, position)
        else:
            self._started = Future()
            self._started.set_result(self._write(step, arrays, plain, position))
        return self._started

    def _write(
        self,
        step: int,
        arrays: dict[str, np.ndarray],
        config: Mapping[str, Any],
        position: DataPosition,
    ) -> str:
        digest = state_digest(arrays)
        if step in self._steps():
            return digest
        meta = {
            "step": step,
            "digest": digest,
            "shapes": shapes_of(arrays),
            "config": config,
            "position": dataclasses.asdict(position),
            "code": code_version(),
            "jax": jax.__version__,
        }
        meta[METADATA_DIGEST] = metadata_digest(meta)
        # orbax refuses arrays without elements; the shapes bring them back.
        full = {name: array for name, array in arrays.items() if array.size}
        items = ocp.args.Composite(state=ocp.args.StandardSave(full), meta=ocp.args.JsonSave(meta))
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._write_error(error) from error
        return digest

    def wait(self) -> None:
        """Returns when everything that was saved is on the disk.

        Raises:
          CheckpointError: if a write failed.
        """
        self._settle()
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Waits and releases the threads."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except CheckpointError as second:
            if error is None:
                raise
            # The first error is the one that ends the run; it must not be hidden by this one.
            logger.warning("%s", second)

    def restore(self, template: Any, position: DataPosition | None = None) -> Restored | None:
        """Reads the newest checkpoint; where it is damaged, the one before, with a warning.

        Args:
          template: pytree of arrays or `jax.ShapeDtypeStruct`, the state that the model needs.
          position: of the data now; must equal the stored one where given.

        Returns:
          Step, state of host arrays and config, or None where there is no checkpoint.

        Raises:
          CheckpointMismatch: if the checkpoint is of another architecture or other data.
          CheckpointError: if there are checkpoints and none is readable.
        """
        paths, treedef = jax.tree_util.tree_flatten_with_path(template)
        wanted = shapes_of({leaf_name(path): leaf for path, leaf in paths})
        found = self._newest(wanted, position)
        if found is None:
            return None
        step, meta, arrays = found
        state = jax.tree_util.tree_unflatten(
            treedef, [arrays[leaf_name(path)] for path, _ in paths]
        )
        return Restored(step, state, meta["config"])

    def read(self, step: int | None = None) -> tuple[int, dict[str, Any], dict[str, np.ndarray]]:
        """Step, config and named arrays of one checkpoint, by default the newest readable one.

        Raises:
          CheckpointError: if there is none, or that of `step` is unreadable.
        """
        if step is None:
            found = self._newest(None, None)
        else:
            try:
                meta = self._read_meta(step)
                found = step, meta, self._read_arrays(step, meta)
            except _Unreadable as error:
                path = self.directory / str(step)
                raise CheckpointError(f"checkpoint {path} is unreadable: {error}") from error
        if found is None:
            raise CheckpointError(f"{self.directory} holds no checkpoint")
        return found[0], found[1]["config"], found[2]

    def code(self, step: int) -> str:
        """Version of the code that wrote a readable checkpoint."""
        return str(self._read_meta(step)["code"])

    def _newest(self, wanted: _Shapes, position: DataPosition | None) -> _Found | None:
        steps = self.steps()
        for place, step in enumerate(steps):
            try:
                meta = self._read_meta(step)
                self._check(step, meta, wanted, position)
                found: _Found | None = step, meta, self._read_arrays(step, meta)
                error = "another host could not read it"
            except _Unreadable as unreadable:
                found, error = None, str(unreadable)
            # All hosts continue from the same step: one that all of them can read.
            if flags_of_hosts(found is not None).all():
                return found
            instead = f"taking step {steps[place + 1]}" if step != steps[-1] else "none is left"
            logger.warning(
                f"checkpoint of step {step} in {self.directory} is unreadable ({error}); "
                f"{instead}{self._set_aside(step)}"
            )
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.directory} is readable: remove the "
                "workdir to start anew, or restore them from a copy"
            )
        return None

    def _check(
        self, step: int, meta: dict[str, Any], wanted: _Shapes, position: DataPosition | None
    ) -> None:
        try:
            if wanted is not None:
                check_shapes(meta["shapes"], wanted)
            if position is not None:
                check_position(meta["position"], position)
        except CheckpointMismatch as error:
            raise CheckpointMismatch(
                f"checkpoint {self.directory / str(step)} {error}. Remedy: use another --workdir, "
                "or the config that wrote it (config.json there)"
            ) from None

    def _read_item(self, step: int, **item: Any) -> Any:
        try:
            items = self._manager.restore(step, args=ocp.args.Composite(**item))
        except Exception as error:  # whatever a damaged folder provokes, reported by `_newest`
            raise _Unreadable(in_one_line(error)) from error
        return items[next(iter(item))]

    def _read_meta(self, step: int) -> dict[str, Any]:
        meta = self._read_item(step, meta=ocp.args.JsonRestore())
        if not isinstance(meta, dict) or not _META <= set(meta):
            raise _Unreadable("its metadata are incomplete")
        if meta.get(METADATA_DIGEST, metadata_digest(meta)) != metadata_digest(meta):
            raise _Unreadable("its metadata do not have the digest that was stored with them")
        return meta

    def _read_arrays(self, step: int, meta: dict[str, Any]) -> dict[str, np.ndarray]:
        items = self._read_item(step, state=ocp.args.StandardRestore())
        arrays = {name: np.asarray(value) for name, value in items.items()}
        for name, (shape, dtype) in meta["shapes"].items():
            if 0 in shape:
                arrays[name] = np.zeros(shape, dtype)
        if state_digest(arrays) != meta["digest"]:
            raise _Unreadable("its contents do not have the digest that was stored with them")
        return arrays

    def _set_aside(self, step: int) -> str:
        """Moves a damaged checkpoint out of the way, so that its step can be saved again."""
        if self._read_only:
            return ""
        target = self.workdir / UNREADABLE / str(step)
        if jax.process_index() == 0:
            attempt = 1
            while target.exists():
                attempt += 1
                target = target.with_name(f"{step}.{attempt}")
            target.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(target)
        flags_of_hosts(True)  # nobody looks before it is moved
        self._manager.reload()
        return f"; moved to {target}"

    def _write_error(self, error: Exception) -> CheckpointError:
        if jax.process_index() == 0:
            for partial in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)
        return CheckpointError(
            f"cannot write a checkpoint below {self.directory}: {in_one_line(error)}. Make room or "
            f"make it writable, then run the same command again; it continues from step "
            f"{max(self._steps(), default=0)}"
        )
