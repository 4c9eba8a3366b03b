"""Views of word images on the accelerator: pure, keyed, batched (RCMSTR section 1)."""

from rcmstr_jax.augment.colour import ColourJitter, random_colours
from rcmstr_jax.augment.geometry import (
    random_crop_columns,
    random_crop_rows,
    random_perspective,
    random_piecewise_affine,
)
from rcmstr_jax.augment.photometry import random_blur, random_contrast, random_sharpen
from rcmstr_jax.augment.views import ViewRanges, make_view

__all__ = [
    "ColourJitter",
    "ViewRanges",
    "make_view",
    "random_blur",
    "random_colours",
    "random_contrast",
    "random_crop_columns",
    "random_crop_rows",
    "random_perspective",
    "random_piecewise_affine",
    "random_sharpen",
]
