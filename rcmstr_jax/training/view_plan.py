"""The views of a run: `config.views`, checked and typed."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from rcmstr_jax.augment.colour import ColourJitter
from rcmstr_jax.augment.views import ViewRanges
from rcmstr_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ViewPlan:
    """Operations of a view: `config.views`; `colour` is None where colours stay as they are."""

    min_ops: int = 1
    max_ops: int = 5
    ranges: ViewRanges = dataclasses.field(default_factory=ViewRanges)
    colour: ColourJitter | None = None


def view_plan(views: ConfigDict) -> ViewPlan | None:
    """The `views` section of a config; None where both views are the image itself.

    Raises:
      ConfigError: numbers or ranges of operations that cannot be drawn.
    """
    if views.min_ops > views.max_ops:
        raise ConfigError(
            f"config.views.min_ops={views.min_ops} exceeds config.views.max_ops={views.max_ops}: "
            "lower it"
        )
    try:
        ranges, colour = ViewRanges(**views.ranges), ColourJitter(**views.colour)
    except ValueError as error:
        message = str(error).replace("ViewRanges.", "config.views.ranges.", 1)
        raise ConfigError(message.replace("ColourJitter.", "config.views.colour.", 1)) from error
    if not views.enabled:
        return None
    return ViewPlan(views.min_ops, views.max_ops, ranges, colour if views.colours else None)
