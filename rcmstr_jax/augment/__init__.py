"""Views of word images on the accelerator: pure, keyed, batched (RCMSTR section 1)."""

from rcmstr_jax.augment.colour import ColourJitter
from rcmstr_jax.augment.views import OPERATIONS, ViewRanges, make_view

__all__ = ["OPERATIONS", "ColourJitter", "ViewRanges", "make_view"]
