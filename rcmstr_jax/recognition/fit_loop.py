"""The loop that trains a recogniser: progress, metrics, checkpoints, early stopping.

Everything that decides how training goes on lies in the checkpoint, the best weights so far among
it, so that an interrupted run ends where an uninterrupted one does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rcmstr_jax.recognition.feeds import Feed
from rcmstr_jax.recognition.validation import Validate
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.config_files import config_from_jsonable, differences
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.interrupts import StopRequest
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.runtime.writers import create_writer
from rcmstr_jax.training import recognition_step as rs

Log = Callable[[str], None]
Tree = Any
Chunk = Callable[..., tuple[rs.RecognitionState, dict[str, Any]]]


class Stopped(RuntimeError):
    """Training was asked to stop; its state is saved, and the same command goes on from there."""


def fit(
    chunk: Chunk,
    state: rs.RecognitionState,
    make_feed: Callable[[int], Feed],
    config: ConfigDict,
    *,
    workdir: Path,
    identity: ConfigDict,
    position: DataPosition,
    schedule: Callable[[Any], Any],
    validate: Validate | None,
    log: Log,
) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Trains from the newest checkpoint of the workdir, or from `state`, to the end.

    Args:
      chunk: from `recognition_step.make_chunk`; its calls have `train.steps_per_call` steps.
      state: to begin with.
      make_feed: from a step to the calls that begin there.
      config: an evaluation config.
      workdir: takes checkpoints, metrics.jsonl and TensorBoard events.
      identity: what a continued run must agree in.
      position: of the data.
      schedule: learning rate by step, for the curves.
      validate: scores weights on the validation words; None trains to the last step.
      log: takes progress lines.

    Returns:
      The weights to read with, `{"params": ..., "batch_stats": ...}`: the best on the validation
      words, else the last; and `{"steps": ..., "validation": ...}` about them.

    Raises:
      ConfigError: the workdir holds another run.
      FloatingPointError: the loss is no longer a finite number.
      Stopped: by Ctrl-C or SIGTERM.
    """
    train = config.train
    best: dict[str, Any] = {}
    if validate is not None:
        best = {
            "weights": jax.tree.map(jnp.copy, state.weights()),
            "score": np.array([-1.0, -1.0], np.float32),
            "step": np.int32(0),
            "misses": np.int32(0),
        }
    with Checkpoints(workdir, keep=1) as checkpoints, StopRequest() as stop:
        restored = checkpoints.restore(_as_saved(state, best), position)
        if restored:
            check_identity(restored.config, identity, workdir)
            state, best = _from_saved(restored.state)
            log(f"continuing after step {restored.step}")
        start = restored.step if restored else 0
        writer = create_writer(workdir, start)
        progress = Progress(config, start, log)
        done, saved = start, start
        try:
            for memory, rows, active in make_feed(start):
                if _ended(best, train.patience):
                    log(f"no better for {train.patience} validations: stopped after step {done}")
                    break
                before = done
                state, values = chunk(state, memory, rows, active)
                done += int(active.sum())
                numbers = progress.after(done, values, active)
                if numbers:
                    numbers["learning_rate"] = float(schedule(done - 1))
                due = done == train.steps or done // train.validate_every > (
                    before // train.validate_every
                )
                if validate is not None and due:
                    scores = validate(state.weights())
                    numbers |= {f"validation/{name}": value for name, value in scores.items()}
                    best = _better(best, scores, state, done, log)
                if numbers:
                    writer.write_scalars(done, numbers)
                if stop.signal and done < train.steps:
                    checkpoints.save(done, _as_saved(state, best), identity, position)
                    raise Stopped(
                        f"{stop.signal}: saved after step {done} of {train.steps}; the same"
                        " command goes on from there"
                    )
                if train.checkpoint_every and done - saved >= train.checkpoint_every:
                    checkpoints.save(done, _as_saved(state, best), identity, position)
                    saved = done
        finally:
            writer.close()
    if validate is None:
        return state.weights(), {"steps": done}
    accuracy, ned = (round(float(value), 4) for value in best["score"])
    found = {"word_accuracy": accuracy, "one_minus_ned": ned}
    return best["weights"], {"steps": int(best["step"]), "validation": found}


def check_identity(stored: ConfigDict, now: ConfigDict, workdir: Path) -> None:
    """Refuses to go on with, or to score, what another command trained.

    Raises:
      ConfigError: naming every field that differs.
    """
    # One of them may have come from JSON, which has lists for tuples.
    changed = differences(*(config_from_jsonable(run.to_dict()) for run in (stored, now)))
    if changed:
        raise ConfigError(
            f"--workdir={workdir} holds a recogniser of another run ({'; '.join(changed[:8])}):"
            " use another --workdir, or remove that one"
        )


def _ended(best: Mapping[str, Any], patience: int) -> bool:
    return bool(best) and patience > 0 and int(best["misses"]) >= patience


def _better(
    best: dict[str, Any],
    scores: Mapping[str, float],
    state: rs.RecognitionState,
    step: int,
    log: Log,
) -> dict[str, Any]:
    """The best weights after a validation: by word accuracy, of equals by 1-NED."""
    score = np.array([scores["word_accuracy"], scores["one_minus_ned"]], np.float32)
    log(f"validation at step {step}: word accuracy {score[0]:.2f} %, 1-NED {score[1]:.2f} %")
    if tuple(score) <= tuple(best["score"]):
        return {**best, "misses": np.int32(best["misses"] + 1)}
    # Copies, because the next call of the step reuses the state's memory.
    weights = jax.tree.map(jnp.copy, state.weights())
    return {"weights": weights, "score": score, "step": np.int32(step), "misses": np.int32(0)}


def _as_saved(state: rs.RecognitionState, best: dict[str, Any]) -> dict[str, Any]:
    """As plain arrays: typed keys have no bytes of their own."""
    return {"training": state.replace(key=jax.random.key_data(state.key)), "best": best}


def _from_saved(saved: dict[str, Any]) -> tuple[rs.RecognitionState, dict[str, Any]]:
    state = saved["training"]
    # Plain copies on the device: the step gives its state's memory away.
    state = jax.tree.map(jnp.array, state)
    return state.replace(key=jax.random.wrap_key_data(state.key)), saved["best"]


class Progress:
    """Progress lines, and a check that the loss is a number."""

    def __init__(self, config: ConfigDict, start: int, log: Log) -> None:
        """Starts the clock."""
        self._train, self._log = config.train, log
        self._start = self._compiled_step = start
        self._began = self._compiled = time.perf_counter()
        self._logged = start // config.train.log_every
        log("compiling the training step …")

    def after(self, done: int, values: Mapping[str, Any], active: np.ndarray) -> dict[str, float]:
        """Tells what there is to tell after a call that ended with step `done`.

        Returns:
          Mean metrics of the call every `train.log_every` steps, else nothing.

        Raises:
          FloatingPointError: the loss is no longer a finite number.
        """
        train = self._train
        if self._compiled_step == self._start:
            jax.block_until_ready(values)
            self._compiled, self._compiled_step = time.perf_counter(), done
            seconds = self._compiled - self._began
            self._log(f"compiled, with the first {done - self._start} steps, in {seconds:.1f} s")
        if done // train.log_every == self._logged and done < train.steps:
            return {}
        self._logged = done // train.log_every
        means = {name: float(np.asarray(v)[active].mean()) for name, v in values.items()}
        if not np.isfinite(np.asarray(values["loss"])[active]).all():
            raise FloatingPointError(
                f"the loss is not finite near step {done}: lower train.learning_rate"
                f"={train.learning_rate}, or set train.clip={train.clip} to a smaller norm"
            )
        speed = ""
        if done > self._compiled_step:
            seconds = time.perf_counter() - self._compiled
            rate = (done - self._compiled_step) / seconds
            speed = f", {rate * train.batch_size:.0f} words/s"
            speed += f", {(train.steps - done) / rate:.0f} s left"
        self._log(
            f"step {done}/{train.steps}: loss {means['loss']:.4f},"
            f" gradient {means['grad_norm']:.2f}{speed}"
        )
        return means
