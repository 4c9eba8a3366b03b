"""The choice between the two masked forms, from measured rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rcmstr_jax.benchmarking.cases import Settings
from rcmstr_jax.benchmarking.report import Row
from rcmstr_jax.benchmarking.sparse import check_update, crossover, describe_choice, update_table
from rcmstr_jax.models.forms import PATH, choose_form, measured_table


def rows(
    times: dict[float, tuple[float, float]], width: int = 64, precision: str = "float32"
) -> list[Row]:
    """Rows of (packed, masked_dense) seconds per ratio, and the dense form beside them."""
    return [
        {
            "what": "sparse",
            "platform": "cpu",
            "form": form,
            "ratio": ratio,
            "width": width,
            "precision": precision,
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
    assert describe_choice(measured, {"cpu": {"float32": {64: 0.7}}}) == [
        "width 64, 30% hidden: packed is 0.91 times as fast as masked_dense; auto takes packed, "
        "10% slower than the better one",
        "width 64, 70% hidden: packed is 2.50 times as fast as masked_dense; auto takes packed, "
        "0% slower than the better one",
    ]


def test_table_is_updated_where_it_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    before = {"cpu": {"float32": {"64": 0.5, "512": 0.6}}, "gpu": {"float32": {"64": 0.1}}}
    path.write_text(json.dumps(before))
    update_table(rows({0.9: (1, 5), 0.7: (6, 5)}) + rows({0.7: (1, 5)}, width=128), path)
    update_table(rows({0.9: (6, 5)}, precision="bfloat16"), path)
    after = json.loads(path.read_text())
    assert after == {
        "cpu": {"float32": {"64": 0.1, "128": 0.3, "512": 0.6}, "bfloat16": {"64": 0.0}},
        "gpu": {"float32": {"64": 0.1}},
    }
    assert list(after["cpu"]["float32"]) == ["64", "128", "512"]


@pytest.mark.parametrize(
    ("what", "settings", "names", "message"),
    [
        ("sparse", {"batch": 64}, (), "--batch=64 with .* use --batch=32"),
        ("all", {"model": "vit-tiny"}, (), "--model=vit-tiny with .* 100 pixels; use --model=cnn"),
        ("sparse", {}, ("packed 0.5",), "--cases=packed 0.5 with .* leave --cases out"),
        ("step", {}, (), "--what=step with .* only --what=sparse"),
    ],
)
def test_other_measurements_do_not_enter_the_table(
    what: str, settings: dict, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_update(what, Settings(**settings), names)
    check_update("sparse", Settings(width=64, precision="bfloat16"))


def test_the_committed_table_is_read() -> None:
    assert json.loads(json.dumps(measured_table())) == json.loads(PATH.read_text())
    assert choose_form("no such platform", "float32", 64, 0.1) == "masked_dense"
    limit = measured_table()["cpu"]["float32"][64]
    assert choose_form("cpu", "float32", 64, limit) == "packed"
    assert choose_form("cpu", "float32", 64, limit + 0.02) == "masked_dense"
