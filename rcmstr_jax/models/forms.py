"""Which form of the masked pass is the faster one here: a small table of measurements.

`forms.json` holds it: platform -> arithmetic -> encoder width -> the largest share of visible
patches up to which the packed form is taken. `launch/benchmark.py --what=sparse --update_table`
measures entries again, at the batch and image width below; other ones, other depths and the widths
in between are extrapolated. Platforms and arithmetic not listed take the masked-dense form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PATH = Path(__file__).with_suffix(".json")
BATCH, IMAGE_WIDTH = 32, 100  # of every measurement in the table; all 29 layers
Table = Mapping[str, Mapping[str, Mapping[int, float]]]


@cache
def measured_table() -> Table:
    """The table of `forms.json`."""
    table = json.loads(PATH.read_text(encoding="utf-8"))
    return {
        platform: {
            arithmetic: {int(width): share for width, share in widths.items()}
            for arithmetic, widths in of_platform.items()
        }
        for platform, of_platform in table.items()
    }


def choose_form(
    platform: str, arithmetic: str, width: int, visible_share: float, table: Table | None = None
) -> str:
    """ "packed" or "masked_dense", whichever the table says is faster.

    Args:
      platform: as `target_platform()` names it.
      arithmetic: name of its dtype.
      width: width of the encoder; the nearest measured one decides.
      visible_share: visible patches divided by all patches.
      table: measurements; those of `forms.json` by default.
    """
    of_platform = (measured_table() if table is None else table).get(platform, {})
    measured = of_platform.get(arithmetic)
    if not measured:
        return "masked_dense"
    nearest = min(measured, key=lambda known: (max(known, width) / min(known, width), known))
    # Shares are counts of patches: half of one in a hundred stands for rounding.
    return "packed" if visible_share <= measured[nearest] + 0.005 else "masked_dense"
