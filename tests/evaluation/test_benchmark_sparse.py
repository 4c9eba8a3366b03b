"""The benchmark of the masked encoder, on the smallest encoder."""

from __future__ import annotations

from rcmstr_jax.evaluation.benchmark_sparse import benchmark_sparse, crossover


def test_rows_name_form_ratio_time_and_memory() -> None:
    rows = benchmark_sparse(
        width=16, batch=2, ratios=(0.7,), repeats=2, image_width=20, forms=("packed",), peak=False
    )
    (row,) = rows
    assert (row["what"], row["form"], row["ratio"]) == ("sparse", "packed", 0.7)
    assert row["seconds"] > 0 and row["spread"] >= 0 and row["buffer_bytes"] > 0


def test_crossover_is_the_largest_share_at_which_packed_wins() -> None:
    times = {0.9: (1, 5), 0.7: (2, 5), 0.5: (6, 5), 0.3: (4, 5)}
    rows = [
        {"form": form, "ratio": ratio, "width": 64, "seconds": seconds}
        for ratio, pair in times.items()
        for form, seconds in zip(("packed", "masked_dense"), pair, strict=True)
    ]
    assert crossover(rows) == {64: 0.3}
