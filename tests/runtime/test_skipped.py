"""Steps that are skipped: what is said of them, and when a run gives up."""

from __future__ import annotations

import logging
import math

import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.skipped import SkippedSteps, TrainingDiverged, not_finite


def on_devices(**metrics: float) -> dict[str, jax.Array]:
    return parallel.replicate({name: jnp.float32(value) for name, value in metrics.items()})


def feed(
    watch: SkippedSteps, step: int, losses: list[float], *, total: int = 0, row: int = 0
) -> dict[str, float]:
    """Steps after `step` with these MIM losses; returns what the last one reports."""
    numbers: dict[str, float] = {}
    for number, loss in enumerate(losses, step + 1):
        row = 0 if math.isfinite(loss) else row + 1
        total += not math.isfinite(loss)
        numbers = {
            "grad_norm": loss, "loss": loss, "loss/mim": loss, "nce/word": 1.0,
            "skipped": float(total), "skipped_in_row": float(row),
        }  # fmt: skip
        watch.add(number, on_devices(**numbers))
    return numbers


def test_terms_stand_in_the_order_of_their_computation() -> None:
    bad = ("grad_norm", "loss", "loss/mim", "relation_kl/frame", "nce/word", "accuracy/word")
    numbers = {**dict.fromkeys(bad, math.nan), "nce/frame": 1.0, "skipped": 3.0}
    assert not_finite(numbers) == [
        "nce/word", "relation_kl/frame", "loss/mim", "loss", "grad_norm",
    ]  # fmt: skip


def test_run_stops_and_names_step_and_term_that_went_first(caplog) -> None:
    watch = SkippedSteps(limit=3)
    with caplog.at_level(logging.WARNING):
        watch.check(feed(watch, 0, [1.0, 1.0, 1.0, 1.0, math.nan]))
        watch.check(feed(watch, 5, [math.inf, math.nan], total=1, row=1))
        numbers = feed(watch, 7, [math.nan], total=3, row=3)
        with pytest.raises(TrainingDiverged) as caught:
            watch.check(numbers)
    message = str(caught.value)
    assert "step 8: 4 steps in a row" in message
    assert "more than config.max_skipped=3" in message
    assert "the first that was not finite: at step 5, loss/mim" in message
    assert "last checkpoint is kept" in message
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == ("step 5 was skipped: not finite, in order, are loss/mim, loss, grad_norm")


def test_a_row_that_ended_before_the_log_line_is_reported_and_forgiven(caplog) -> None:
    watch = SkippedSteps(limit=2)
    with caplog.at_level(logging.WARNING):
        watch.check(feed(watch, 0, [1.0, math.nan, math.nan, 1.0]))
        watch.check(feed(watch, 4, [1.0], total=2))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "step 2 was skipped"
    ]


def test_a_longer_row_is_not_forgiven_because_it_ended(caplog) -> None:
    watch = SkippedSteps(limit=2)
    losses = [math.nan, 1.0, *[math.inf] * 40, 1.0, math.nan, 1.0]
    with pytest.raises(TrainingDiverged, match="step 5: 3 steps in a row .*: at step 3, loss/mim"):
        watch.check(feed(watch, 0, losses))


def test_a_row_within_a_call_of_several_steps_is_no_older() -> None:
    watch = SkippedSteps(limit=2, per_call=4)
    watch.add(8, on_devices(skipped=3.0, skipped_in_row=3.0, loss=math.nan))
    with pytest.raises(TrainingDiverged, match="at step 8, loss"):
        watch.check({"skipped": 3.0, "skipped_in_row": 3.0})


def test_a_row_older_than_the_process_is_said_to_be_so() -> None:
    watch = SkippedSteps(limit=2)
    numbers = {"skipped": 9.0, "skipped_in_row": 3.0, "loss": math.nan}
    watch.add(9, on_devices(**numbers))
    with pytest.raises(TrainingDiverged, match="before this process was started"):
        watch.check(numbers)
