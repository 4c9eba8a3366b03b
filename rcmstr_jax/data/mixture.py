"""Order of the records: seeded shuffling by epochs, and mixtures with weights.

Everything here is a pure function of (seed, position), so that a run resumes at any position
without replaying the ones before, and every host and worker process agrees.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from rcmstr_jax.data.records import ENDLESS, Record, RecordSource, is_endless, label_of

# A mixture repeats the same counts in every block of positions. The shortest block is taken in
# which each share is within 1 % of its weight; longer ones would blur the components' epochs.
_SHORTEST_BLOCK = 256
_LONGEST_BLOCK = 65536
_SHARE_TOLERANCE = 0.01
# Up to this size a permutation is a table, of 64 kB at most; larger ones are computed place by
# place, which for small sizes takes up to milliseconds (Grain's cipher has 2**16 places at least).
_LARGEST_TABLE = 2**14


@functools.lru_cache(maxsize=256)
def _stream_seed(*words: int) -> int:
    """A 32-bit seed mixed from several words."""
    return int(np.random.SeedSequence([word % 2**64 for word in words]).generate_state(1)[0])


def shuffled_index(position: int, size: int, seed: int, stream: int = 0) -> int:
    """Which of `size` records comes at `position` of an endless shuffled walk.

    Every epoch of `size` positions visits each record once, in an order of its own.

    Args:
      position: place in the walk, 0 or larger.
      size: number of records.
      seed: seed of the walk.
      stream: distinguishes walks that share a seed (components of a mixture).

    Returns:
      An index in `[0, size)`.
    """
    epoch, place = divmod(position, size)
    return _permuted(place, size, _stream_seed(seed, stream, epoch))


def _permuted(place: int, size: int, seed: int) -> int:
    """Where a seeded permutation of `[0, size)` takes `place`."""
    if size <= _LARGEST_TABLE:
        return int(_permutation(size, seed)[place])
    from grain.experimental import index_shuffle  # slow to import, and small sets need none

    return index_shuffle(place, max_index=size - 1, seed=seed, rounds=4)


@functools.lru_cache(maxsize=256)
def _permutation(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(size).astype(np.int32)


class MixtureSource:
    """Endless mixture: at every position one component, chosen by weight.

    Each component is walked through its own shuffled epochs, so a small set with a large weight
    is repeated, and each of its records equally often. In every block of `block` positions the
    components have exactly the same counts, in an order drawn afresh.

    Attributes:
      components: the sources.
      shares: records of each component in a block; proportional to the weights within 1 %.
      block: sum of the shares, a power of two from 256 to 65,536.
      name: names and weights of the components.
      endless: True: positions come in order, nothing shuffles them again.
    """

    endless = True

    def __init__(
        self, components: Sequence[RecordSource], weights: Sequence[float], seed: int = 0
    ) -> None:
        """Makes the mixture.

        Args:
          components: at least one source, none of them empty.
          weights: one positive number per component; only their ratios matter.
          seed: seed of the choice and of the components' epochs.

        Raises:
          ValueError: numbers of weights and components differ, a weight is not a positive
            finite number, or a component is empty.
        """
        if len(components) != len(weights) or not components:
            raise ValueError(
                f"data.weights has {len(weights)} values for {len(components)} sources; "
                "give one positive weight per source"
            )
        for source, weight in zip(components, weights, strict=True):
            if not (np.isfinite(weight) and weight > 0):
                raise ValueError(
                    f"data.weights: weight {weight!r} of source {source.name!r} must be a positive "
                    "number; leave the source out instead of giving it no weight"
                )
            if len(source) == 0:
                raise ValueError(f"source {source.name!r} of the mixture is empty; leave it out")
        self.components = tuple(components)
        self.seed = seed
        self.shares = _apportion(np.asarray(weights, np.float64))
        self.block = int(self.shares.sum())
        self._ends = np.cumsum(self.shares)
        self.name = (
            "mixture("
            + ", ".join(
                f"{source.name}*{weight:g}"
                for source, weight in zip(components, weights, strict=True)
            )
            + ")"
        )

    def __len__(self) -> int:
        return ENDLESS

    def locate(self, position: int) -> tuple[int, int]:
        """Component and index within it at a position, `(component, index)`."""
        block, place = divmod(position, self.block)
        # Stream 0 orders the block; component c walks its epochs in stream c + 1.
        slot = _permuted(place, self.block, _stream_seed(self.seed, 0, block))
        component = int(np.searchsorted(self._ends, slot, side="right"))
        share = int(self.shares[component])
        step = block * share + slot - (int(self._ends[component]) - share)
        source = self.components[component]
        if is_endless(source):
            return component, step % len(source)
        return component, shuffled_index(step, len(source), self.seed, component + 1)

    def __getitem__(self, position: int) -> Record:
        component, index = self.locate(position)
        return self.components[component][index]

    def label(self, position: int) -> str | None:
        """See `label_of`."""
        component, index = self.locate(position)
        return label_of(self.components[component], index)


def _apportion(weights: np.ndarray) -> np.ndarray:
    """Whole-number shares of a block, by largest remainder, each at least one."""
    ideal = weights / weights.sum()
    block = _SHORTEST_BLOCK
    while True:
        exact = ideal * block
        shares = np.floor(exact).astype(np.int64)
        for component in np.argsort(shares - exact, kind="stable")[: block - int(shares.sum())]:
            shares[component] += 1
        close = np.abs(shares - exact) <= _SHARE_TOLERANCE * exact
        if close.all() or block >= _LONGEST_BLOCK:
            break
        block *= 2
    for component in np.flatnonzero(shares == 0):
        shares[component] = 1
        shares[np.argmax(shares)] -= 1
    return shares
