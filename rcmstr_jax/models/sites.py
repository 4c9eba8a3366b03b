"""Active sites of a masked image at every resolution of a convolutional encoder.

A masked image keeps some sites and hides the others. A hidden site holds nothing: it is not
computed, contributes zero to its neighbours, and stays empty after every layer (method section 5).
`Sites` says which sites of one resolution are active; `Sites.through` gives those of the next one.

Packed maps hold the active sites alone, (batch, capacity, channels). `Sites` then also holds the
index tables: which site each slot holds, and where the neighbours of a slot's site are found. They
depend on the mask alone, are computed once per mask and resolution, and their shapes are static,
so that other masks of the same number of visible patches need no recompilation.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Int

from rcmstr_jax.models.compilation import compiled_apart

Pair = tuple[int, int]
Window = tuple[Pair, Pair, Pair]  # kernel, strides, padding


def output_size(size: Pair, kernel: Pair, strides: Pair, padding: Pair) -> Pair:
    """Height and width of a map after a layer with this window (floor mode, symmetric padding)."""
    height, width = (
        (s + 2 * p - k) // t + 1 for s, k, t, p in zip(size, kernel, strides, padding, strict=True)
    )
    return height, width


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("visible",),
    meta_fields=("rows_of", "column_of", "visible_count"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Sites:
    """Which sites of one resolution are active.

    Whether a site is active follows from the patch grid by static rules: site (r, c) is active iff
    a patch of column `column_of[c]` is visible in any of the patch rows `rows_of[r]`.

    Attributes:
      visible: patches that are not hidden, shape (batch, rows, columns).
      rows_of: for every row of sites the patch rows that activate it.
      column_of: for every column of sites the patch column that activates it.
      visible_count: largest number of visible patches of any image. Given, maps are packed;
        None, they are dense with zeros at hidden sites. An image with more visible patches
        than promised loses the last ones.
    """

    visible: Bool[Array, "batch rows columns"]
    rows_of: tuple[tuple[int, ...], ...]
    column_of: tuple[int, ...]
    visible_count: int | None = None

    @classmethod
    def from_patches(
        cls,
        hidden: Bool[Array, "batch rows columns"],
        size: Pair,
        visible_count: int | None = None,
    ) -> Sites:
        """Sites of a map of `size` (height, width) whose patches are `hidden` (True = hidden).

        Raises:
          ValueError: the grid does not divide the map, or the count is impossible.
        """
        rows, columns = hidden.shape[1:]
        height, width = size
        if height % rows or width % columns:
            raise ValueError(
                f"mask: a grid of {rows} x {columns} patches does not divide a map of "
                f"{height} x {width}; use rows that divide {height} and columns that divide {width}"
            )
        if visible_count is not None and not 0 < visible_count <= rows * columns:
            raise ValueError(
                f"visible_count: {visible_count} is not between 1 and the {rows * columns} patches"
            )
        rows_of = tuple((row * rows // height,) for row in range(height))
        column_of = tuple(column * columns // width for column in range(width))
        return cls(jnp.logical_not(hidden.astype(bool)), rows_of, column_of, visible_count)

    @property
    def size(self) -> Pair:
        """Height and width of the map."""
        return len(self.rows_of), len(self.column_of)

    @property
    def packed(self) -> bool:
        """Whether maps hold the active sites alone."""
        return self.visible_count is not None

    @cached_property
    def active(self) -> Bool[Array, "batch height width"]:
        """True where a site is active."""
        columns = jnp.take(self.visible, jnp.asarray(self.column_of, jnp.int32), axis=2)
        if all(len(rows) == 1 for rows in self.rows_of):
            first = jnp.asarray([rows[0] for rows in self.rows_of], jnp.int32)
            return jnp.take(columns, first, axis=1)
        rows = [jnp.any(columns[:, np.asarray(rows, int)], axis=1) for rows in self.rows_of]
        return jnp.stack(rows, axis=1)

    @property
    def kept(self) -> Bool[Array, "batch *sites"]:
        """True where a value of a map counts: active sites, or used slots where packed."""
        return self.valid if self.packed else self.active

    def through(self, kernel: Pair, strides: Pair = (1, 1), padding: Pair = (0, 0)) -> Sites:
        """Sites after a layer with this window.

        A layer that keeps the map's size keeps its sites. In a layer that shrinks or pads the map
        an output site is active iff any input site is active among its window's rows in the anchor
        column `min(output column * stride, last column)`.
        """
        height, width = output_size(self.size, kernel, strides, padding)
        if (height, width) == self.size and strides == (1, 1):
            return self
        rows_of = []
        for row in range(height):
            first = row * strides[0] - padding[0]
            inside = range(max(first, 0), min(first + kernel[0], self.size[0]))
            rows_of.append(tuple(sorted({patch for i in inside for patch in self.rows_of[i]})))
        last = self.size[1] - 1
        column_of = tuple(self.column_of[min(column * strides[1], last)] for column in range(width))
        found = self._followers.get((tuple(rows_of), column_of))
        if found is None:
            found = dataclasses.replace(self, rows_of=tuple(rows_of), column_of=column_of)
            self._followers[tuple(rows_of), column_of] = found
        return found

    @cached_property
    def _followers(self) -> dict[tuple, Sites]:
        return {}

    # What follows is for packed maps.

    @cached_property
    def capacity(self) -> int:
        """Slots per image: the most sites that `visible_count` visible patches can activate."""
        if self.visible_count is None:
            raise ValueError("visible_count: None; packed maps need the number of visible patches")
        grid = (self.visible.shape[1], self.visible.shape[2])
        return most_active_sites(self.rows_of, self.column_of, grid, self.visible_count)

    @cached_property
    def _slots(self) -> tuple[Array, ...]:
        return _slot_tables(self.active, self.capacity)

    @property
    def index(self) -> Int[Array, "batch capacity"]:
        """The site (row * width + column) that each slot holds; height * width in unused slots."""
        return self._slots[0]

    @property
    def valid(self) -> Bool[Array, "batch capacity"]:
        """True where a slot holds a site."""
        return self._slots[1]

    @property
    def slot(self) -> Int[Array, "batch all_sites"]:
        """Where each site is found in the flattened (batch * capacity) slots.

        batch * capacity stands for hidden sites, and so does one entry more than there are sites,
        for everything outside the map.
        """
        return self._slots[2]

    @property
    def dense_index(self) -> Int[Array, "batch capacity"]:
        """Rows of the flattened dense map that the slots hold; one beyond the last if unused."""
        return self._slots[3]

    @property
    def dense_slot(self) -> Int[Array, "batch height width"]:
        """`slot` as a map."""
        return self._slots[4]

    @cached_property
    def _tables(self) -> dict[tuple[str, Window], Array]:
        return {}

    def table(self, kind: str, window: Window) -> Int[Array, "batch slots places"]:
        """An index table of a layer with this window, computed once.

        "sources": for every output slot the input slots in its window, row-major, (batch, capacity
        of the output, places). "targets": for every input slot the output slots that see it at each
        place of their window, (batch, capacity, places). Beyond the last slot: none there.
        """
        if (kind, window) not in self._tables:
            out = self.through(*window)
            make, here, there = {
                "sources": (_sources, out, self),
                "targets": (_targets, self, out),
            }[kind]
            self._tables[kind, window] = make(here.index, there.slot, here.size, there.size, window)
        return self._tables[kind, window]


@partial(compiled_apart, static_argnums=(1,))
def _slot_tables(active: Array, capacity: int) -> tuple[Array, ...]:
    """See the properties of `Sites`."""
    batch, height, width = active.shape
    total = height * width
    active = rearrange(active, "b h w -> b (h w)")
    # Sorting (hidden, site) puts the active sites first, in reading order.
    site = jnp.arange(total, dtype=jnp.int32)
    index = jnp.sort(jnp.where(active, site[None], total), axis=1)[:, :capacity]
    valid = index < total
    rank = jnp.cumsum(active, axis=1, dtype=jnp.int32) - 1
    image = jnp.arange(batch, dtype=jnp.int32)[:, None]
    slot = jnp.where(active & (rank < capacity), image * capacity + rank, batch * capacity)
    beyond = jnp.pad(slot, ((0, 0), (0, 1)), constant_values=batch * capacity)
    dense_index = jnp.where(valid, image * total + index, batch * total)
    return index, valid, beyond, dense_index, rearrange(slot, "b (h w) -> b h w", h=height)


def _places(kernel: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every place in a window, row-major, (1, 1, places) each."""
    row, column = np.divmod(np.arange(kernel[0] * kernel[1], dtype=np.int32), kernel[1])
    return row.astype(np.int32)[None, None], column.astype(np.int32)[None, None]


def _row_and_column(index: Array, size: Pair) -> tuple[Array, Array]:
    """Where the slots' sites lie; unused slots far below the map, where no window reaches."""
    row, column = jnp.divmod(index[..., None], size[1])
    return jnp.where(row < size[0], row, 10**6), column


@partial(compiled_apart, static_argnums=(2, 3, 4))
def _sources(index: Array, slot: Array, size: Pair, other: Pair, window: Window) -> Array:
    kernel, strides, padding = window
    row, column = _row_and_column(index, size)
    i, j = _places(kernel)
    rows, columns = row * strides[0] - padding[0] + i, column * strides[1] - padding[1] + j
    return _find(slot, rows, columns, other)


@partial(compiled_apart, static_argnums=(2, 3, 4))
def _targets(index: Array, slot: Array, size: Pair, other: Pair, window: Window) -> Array:
    kernel, strides, padding = window
    row, column = _row_and_column(index, size)
    i, j = _places(kernel)
    rows, rows_rest = jnp.divmod(row + padding[0] - i, strides[0])
    columns, columns_rest = jnp.divmod(column + padding[1] - j, strides[1])
    rows = jnp.where((rows_rest == 0) & (columns_rest == 0), rows, -1)
    return _find(slot, rows, columns, other)


def _find(slot: Array, row: Array, column: Array, size: Pair) -> Array:
    """Slots of the sites at these rows and columns, which may lie outside the map."""
    height, width = size
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    site = jnp.where(inside, row * width + column, height * width)
    site = rearrange(site, "b slots places -> b (slots places)")
    return jnp.take_along_axis(slot, site, axis=1, mode="clip").reshape(row.shape)


@lru_cache(maxsize=256)
def most_active_sites(
    rows_of: tuple[tuple[int, ...], ...], column_of: tuple[int, ...], grid: Pair, visible: int
) -> int:
    """The most sites that any `visible` patches can activate; attained, so the bound is tight.

    A visible patch acts within its own column of patches only. So: the most rows that n patches of
    one column can activate (all subsets), times the columns of sites that follow this column, and
    then the best way to spread the patches over the columns (a knapsack).
    """
    rows, columns = grid
    activates = np.zeros((rows, len(rows_of)), bool)
    for site_row, patch_rows in enumerate(rows_of):
        activates[list(patch_rows), site_row] = True
    best_rows = np.zeros(rows + 1, int)
    for subset in range(2**rows):
        chosen = [row for row in range(rows) if subset >> row & 1]
        count = int(activates[chosen].any(axis=0).sum()) if chosen else 0
        best_rows[len(chosen)] = max(best_rows[len(chosen)], count)
    followers = np.bincount(np.asarray(column_of, int), minlength=columns)
    best = np.zeros(visible + 1, int)
    for column in range(columns):
        gains = [
            np.concatenate([np.zeros(n, int), best[: visible + 1 - n]])
            + best_rows[n] * followers[column]
            for n in range(min(rows, visible) + 1)
        ]
        gains = [np.where(np.arange(visible + 1) >= n, gain, 0) for n, gain in enumerate(gains)]
        best = np.max(gains, axis=0)
    return int(best[visible])
