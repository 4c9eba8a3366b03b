"""Numbers of a run over its steps, as the JSON lines of its workdir hold them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float


def read_metrics(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Curves of a JSON-lines file whose lines hold `step` and numbers.

    A step written twice (a run resumed behind its last log) counts as written last. A broken last
    line is a write cut short, and left out.

    Returns:
      {name: (steps, values)}, steps increasing; what is no finite number is left out.

    Raises:
      ValueError: for a broken line before the last, or one without `step`.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step = int(record.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number}: expected one JSON object with a step, got {line[:60]!r}"
            ) from error
        for name, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, {})[step] = float(value)
    return {
        name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for name, points in curves.items()
    }


def moving_average(
    values: Float[np.ndarray, " points"], window: int
) -> Float[np.ndarray, " points"]:
    """Moving average that shortens towards both ends."""
    weights = np.ones(window)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def relative_differences(
    first: str | Path, second: str | Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How far the losses of two runs lie apart, step by step.

    Args:
      first: `metrics.jsonl` of one run.
      second: of the other.

    Returns:
      {name: (steps that both logged, |first - second| / |second|)}.

    Raises:
      ValueError: if they share no curve or no step.
    """
    ours, theirs = read_metrics(first), read_metrics(second)
    found = {}
    for name in sorted(ours.keys() & theirs.keys()):
        steps, a, b = np.intersect1d(ours[name][0], theirs[name][0], return_indices=True)
        if name.startswith("loss") and len(steps):
            reference = theirs[name][1][b]
            found[name] = (steps, np.abs(ours[name][1][a] - reference) / np.abs(reference))
    if not found:
        raise ValueError(f"{first} and {second} share no step of a curve that begins with loss")
    return found
