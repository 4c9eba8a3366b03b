"""The choice between the two masked forms, from measured rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcmstr_jax.benchmarking.report import Row
from rcmstr_jax.benchmarking.sparse import crossover, describe_choice, update_table
from rcmstr_jax.models.forms import PATH, choose_form, measured_table


def rows(times: dict[float, tuple[float, float]], width: int = 64) -> list[Row]:
    """Rows of (packed, masked_dense) seconds per ratio, and the dense form beside them."""
    return [
        {
            "what": "sparse",
            "platform": "cpu",
            "form": form,
            "ratio": ratio,
            "width": width,
            "seconds": seconds,
        }
        for ratio, pair in times.items()
        for form, seconds in zip(("packed", "masked_dense", "dense"), (*pair, 0.1), strict=True)
    ]


@pytest.mark.parametrize(
    ("times", "share"),
    [
        ({0.9: (1, 5), 0.7: (2, 5), 0.5: (6, 5), 0.3: (9, 5)}, 0.3),  # up to where it wins
        ({0.9: (1, 5), 0.7: (2, 5), 0.5: (5.1, 5), 0.3: (4, 5)}, 0.7),  # noise at 0.5 is borne
        ({0.9: (6, 5), 0.7: (7, 5)}, 0.0),  # never
        ({0.9: (1, 5), 0.1: (4, 5)}, 0.9),  # always
    ],
)
def test_threshold_has_the_best_worst_choice(
    times: dict[float, tuple[float, float]], share: float
) -> None:
    assert crossover(rows(times)) == {64: share}


def test_choice_is_described_with_its_cost() -> None:
    measured = rows({0.7: (2, 5), 0.3: (5.5, 5)})
    assert describe_choice(measured, {"cpu": {64: 0.7}}) == [
        "width 64, 30% hidden: packed is 0.91 times as fast as masked_dense; auto takes packed, "
        "10% slower than the better one",
        "width 64, 70% hidden: packed is 2.50 times as fast as masked_dense; auto takes packed, "
        "0% slower than the better one",
    ]


def test_table_is_updated_where_it_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    path.write_text(json.dumps({"cpu": {"64": 0.5, "512": 0.6}, "gpu": {"64": 0.1}}))
    update_table(rows({0.9: (1, 5), 0.7: (6, 5)}) + rows({0.7: (1, 5)}, width=128), path)
    assert json.loads(path.read_text()) == {
        "cpu": {"64": 0.1, "128": 0.3, "512": 0.6},
        "gpu": {"64": 0.1},
    }


def test_the_committed_table_is_read() -> None:
    stored = json.loads(PATH.read_text())
    assert {name: set(of) for name, of in measured_table().items()} == {
        name: {int(width) for width in of} for name, of in stored.items()
    }
    assert choose_form("no such platform", 64, 0.1) == "masked_dense"
    limit = measured_table()["cpu"][64]
    assert choose_form("cpu", 64, limit) == "packed"
    assert choose_form("cpu", 64, min(limit + 0.02, 1.1)) == "masked_dense"
