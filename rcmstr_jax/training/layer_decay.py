"""Layer-wise learning rates: the nearer to the image, the less a pretrained layer is moved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import jax
import optax

Place = tuple[int, int]
# Names of an encoder's parts and where they stand; the groups are stage and place in the stage.
_PARTS = (
    (r"patch_embed|mask_token", lambda found: (0, 0)),  # ViT
    (r"block_(\d+)", lambda found: (6, int(found[1]))),  # and compact encoder
    (r"norm", lambda found: (7, 0)),
    (r"(?:conv|bn)0_\d", lambda found: (0, 0)),  # CNN
    (r"layer(\d)_(\d+)", lambda found: (int(found[1]), int(found[2]))),  # and compact encoder
    (r"(?:conv|bn)(\d)", lambda found: (int(found[1]), 1000)),
    (r"(?:conv|bn)4_(\d)", lambda found: (4, 1000 + int(found[1]))),
    (r"stem(\d)_(?:conv|bn)", lambda found: (0, int(found[1]))),  # compact encoder
    (r"down(\d)_(?:conv|bn)", lambda found: (int(found[1]), -1)),
    (r"fold_(?:conv|bn)", lambda found: (5, 0)),
)


def layer_numbers(names: Iterable[str]) -> dict[str, int]:
    """Numbers the parts of an encoder from the image (0) upwards; a residual block is one layer.

    Parts are the names of the first level of its parameters.

    Raises:
      ValueError: a name that no encoder of this package has.
    """
    places: dict[str, Place] = {}
    for name in names:
        found = [(m, place) for part, place in _PARTS if (m := re.fullmatch(part, name))]
        if not found:
            raise ValueError(f"encoder part {name!r} has no known place: extend layer_decay.py")
        match, place = found[0]
        places[name] = place(match)
    order = {place: number for number, place in enumerate(sorted(set(places.values())))}
    return {name: order[place] for name, place in places.items()}


def scale_by_layer(decay: float, encoder_params: Any) -> optax.GradientTransformation:
    """Multiplies the updates of `{"decoder": ..., "encoder": {"encoder": ...}}` by layer.

    The decoder keeps its rate, the encoder's last layer has `decay` of it, the one before
    `decay**2`, and so on.

    Args:
      decay: in (0, 1].
      encoder_params: parameters of the encoder, to number its layers by.
    """
    numbers = layer_numbers(encoder_params)
    top = max(numbers.values()) + 1

    def scaled(path: tuple[Any, ...], update: Any) -> Any:
        names = [getattr(entry, "key", str(entry)) for entry in path]
        if names[:2] != ["encoder", "encoder"]:
            return update
        return update * decay ** (top - numbers[names[2]])

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))
