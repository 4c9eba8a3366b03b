"""Colour operations of a view: channel mixing, grey, inversion, gain and brightness.

Beyond the paper (method section 1) and off by default. On real crops the statistics of colour alone
tell the two views of an image apart from all others; drawn for each view on its own, these
operations take that shortcut away, so that frames have to be told apart by what is written.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rcmstr_jax.augment.draws import (
    Range,
    check_range,
    fold_all,
    scale_unit,
    uniform,
)

Images = Float[Array, "batch height width 3"]

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""


@dataclasses.dataclass(frozen=True)
class ColourJitter:
    """Ranges and probabilities of the colour operations; the defaults are those of the trial.

    Attributes:
      probability: share of the views whose colours change at all.
      grey: probability that all channels become the image's luma; the others are mixed.
      mixing: deviation of the normal noise that is added to a random permutation of the channels.
      invert: probability that light and dark change places.
      gain: factor around mid grey.
      brightness: summand, in units of [-1, 1].

    Raises:
      ValueError: on construction, naming the field, its value and what would be right.
    """

    probability: float = 1.0
    grey: float = 0.4
    mixing: float = 0.25
    invert: float = 0.5
    gain: Range = (0.6, 1.4)
    brightness: Range = (-0.3, 0.3)

    def __post_init__(self) -> None:
        for name in ("probability", "grey", "invert"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"ColourJitter.{name} = {value}: give a value from 0 to 1")
        if self.mixing < 0:
            raise ValueError(f"ColourJitter.mixing = {self.mixing}: give 0 or more")
        check_range("ColourJitter.gain", self.gain, 0.0)
        check_range("ColourJitter.brightness", self.brightness, -1.0, 1.0)


class ColourPlan(NamedTuple):
    """What was drawn for every image of a batch, as one affine map of its colours.

    Attributes:
      matrix: output channel by input channel; every row has an absolute sum of 1.
      gain: factor, negative where the image is inverted.
      brightness: summand.
    """

    matrix: Float[Array, "batch 3 3"]
    gain: Float[Array, " batch"]
    brightness: Float[Array, " batch"]


def draw_colours(keys: Key[Array, " batch"], jitter: ColourJitter) -> ColourPlan:
    """Draw the colour operations of every image, all float32."""
    # Two draws per image and not nine: generators are what takes compilers longest here.
    lots = uniform(fold_all(keys, 0), (0.0, 1.0), (8,))
    order = jnp.argsort(lots[:, :3], axis=-1)
    noise = jax.vmap(lambda k: jax.random.normal(k, (3, 3), jnp.float32))(fold_all(keys, 1))
    matrix = jax.nn.one_hot(order, 3, dtype=noise.dtype) + jitter.mixing * noise
    # Rows of an absolute sum of 1 keep values in range. Noise that cancels a whole row has no
    # chance, but must not divide by zero.
    matrix = matrix / jnp.maximum(jnp.abs(matrix).sum(-1, keepdims=True), 1e-6)
    grey = jnp.broadcast_to(jnp.array(LUMA, jnp.float32), matrix.shape)
    matrix = jnp.where((lots[:, 3] < jitter.grey)[:, None, None], grey, matrix)
    sign = jnp.where(lots[:, 4] < jitter.invert, -1.0, 1.0)
    gain = sign * scale_unit(lots[:, 5], jitter.gain)
    brightness = scale_unit(lots[:, 6], jitter.brightness)
    changed = lots[:, 7] < jitter.probability
    return ColourPlan(
        matrix=jnp.where(changed[:, None, None], matrix, jnp.eye(3, dtype=jnp.float32)[None]),
        gain=jnp.where(changed, gain, 1.0),
        brightness=jnp.where(changed, brightness, 0.0),
    )


def apply_colours(plan: ColourPlan, images: Images) -> Images:
    """Map the colours of every pixel of images in [-1, 1], and clip to that."""
    matrix = (plan.matrix * plan.gain[:, None, None]).astype(images.dtype)
    # Written out: a matrix unit would round the colours.
    mixed = [
        sum(images[..., c] * matrix[:, None, None, out, c] for c in range(3)) for out in range(3)
    ]
    brightness = plan.brightness.astype(images.dtype)[:, None, None, None]
    return jnp.clip(jnp.stack(mixed, -1) + brightness, -1, 1)
