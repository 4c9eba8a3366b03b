"""Active sites of a masked image at every resolution of a convolutional encoder.

A masked image keeps some sites and hides the others. A hidden site holds nothing: it is not
computed, contributes zero to its neighbours, and stays empty after every layer (method section 5).
`Sites` says which sites of one resolution are active; `Sites.through` gives those of the next one.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool

Pair = tuple[int, int]


def output_size(size: Pair, kernel: Pair, strides: Pair, padding: Pair) -> Pair:
    """Height and width of a map after a layer with this window (floor mode, symmetric padding)."""
    height, width = (
        (s + 2 * p - k) // t + 1 for s, k, t, p in zip(size, kernel, strides, padding, strict=True)
    )
    return height, width


@dataclasses.dataclass(frozen=True)
class Sites:
    """Which sites of one resolution are active.

    Attributes:
        active: True where a site is active, shape (batch, height, width).
    """

    active: Bool[Array, "batch height width"]

    @classmethod
    def from_patches(cls, hidden: Bool[Array, "batch rows columns"], size: Pair) -> Sites:
        """Sites of an image of `size` whose patches are `hidden` (True = hidden).

        Args:
            hidden: patch mask, shape (batch, rows, columns).
            size: height and width of the map in sites.

        Raises:
            ValueError: the map cannot be cut into this grid.
        """
        rows, columns = hidden.shape[1:]
        height, width = size
        if height % rows or width % columns:
            raise ValueError(
                f"mask: a grid of {rows} x {columns} patches does not divide a map of "
                f"{height} x {width}; use rows that divide {height} and columns that divide {width}"
            )
        active = jnp.logical_not(hidden.astype(bool))
        active = jnp.repeat(active, height // rows, axis=1)
        return cls(jnp.repeat(active, width // columns, axis=2))

    @property
    def size(self) -> Pair:
        """Height and width of the map."""
        return self.active.shape[1], self.active.shape[2]

    def through(self, kernel: Pair, strides: Pair = (1, 1), padding: Pair = (0, 0)) -> Sites:
        """Sites after a layer with this window.

        A layer that keeps the map's size keeps its sites. In a layer that shrinks or pads the map
        an output site is active iff any input site is active among its window's rows in the anchor
        column `min(output column * stride, last column)`.
        """
        out = output_size(self.size, kernel, strides, padding)
        if out == self.size and strides == (1, 1):
            return self
        anchor = jnp.minimum(jnp.arange(out[1]) * strides[1], self.size[1] - 1)
        columns = jnp.take(self.active, anchor, axis=2)
        columns = jnp.pad(columns, ((0, 0), (padding[0], padding[0]), (0, 0)))
        last = (out[0] - 1) * strides[0] + 1
        active = columns[:, 0 : last : strides[0]]
        for row in range(1, kernel[0]):
            active = active | columns[:, row : row + last : strides[0]]
        return Sites(active)
