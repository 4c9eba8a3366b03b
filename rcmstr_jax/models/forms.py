"""Which form of the masked pass is the faster one here: a small table of measurements."""

from __future__ import annotations

from collections.abc import Mapping

# For every platform: encoder width -> the largest share of visible patches at which the packed form
# was at least as fast as the masked-dense one, forward and backward, 32 x 100 pixels.
# `rcmstr_jax.benchmarking.sparse.crossover` computes an entry from the rows that
# `launch/benchmark.py --what=sparse` writes. Platforms that are not listed take the masked-dense
# form.
PACKED_UP_TO: Mapping[str, Mapping[int, float]] = {
    "cpu": {64: 0.7, 512: 0.6},
}


def choose_form(
    platform: str,
    width: int,
    visible_share: float,
    table: Mapping[str, Mapping[int, float]] = PACKED_UP_TO,
) -> str:
    """ "packed" or "masked_dense", whichever the table says is faster.

    Args:
        platform: as `jax.default_backend()` names it.
        width: width of the encoder; the nearest measured one decides.
        visible_share: visible patches divided by all patches.
        table: measurements, see `PACKED_UP_TO`.
    """
    measured = table.get(platform)
    if not measured:
        return "masked_dense"
    nearest = min(measured, key=lambda known: (max(known, width) / min(known, width), known))
    return "packed" if visible_share <= measured[nearest] else "masked_dense"
