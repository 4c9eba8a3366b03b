from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcmstr_jax.data.mixture import MixtureSource, shuffled_index
from rcmstr_jax.data.records import ENDLESS, ConcatSource, Record, is_endless


class Numbers:
    """Records that carry nothing but their index."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        return Record(b"", str(index), self.name)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 300), seed=st.integers(0, 2**63), epoch=st.integers(0, 5))
def test_every_epoch_is_a_permutation(size, seed, epoch) -> None:
    order = [shuffled_index(epoch * size + i, size, seed) for i in range(size)]
    assert sorted(order) == list(range(size))


@pytest.mark.parametrize("size", [2**14, 2**14 + 1, 30_000])
def test_large_orders_are_permutations_too(size) -> None:
    assert {shuffled_index(size + i, size, seed=9) for i in range(size)} == set(range(size))


def test_orders_differ_by_seed_epoch_and_stream() -> None:
    def order(seed: int, epoch: int, stream: int) -> list[int]:
        return [shuffled_index(epoch * 100 + i, 100, seed, stream) for i in range(100)]

    orders = [order(0, 0, 0), order(1, 0, 0), order(0, 1, 0), order(0, 0, 1)]
    assert len({tuple(one) for one in orders}) == 4
    # Unrelated: consecutive records do not stay neighbours.
    assert np.mean(np.abs(np.diff(orders[0])) == 1) < 0.1


def test_mixture_keeps_its_proportions_in_every_block() -> None:
    mixture = MixtureSource([Numbers("big", 10_000), Numbers("small", 10)], (3, 1), seed=5)
    assert is_endless(mixture) and mixture.block == 256 and list(mixture.shares) == [192, 64]
    for block in (0, 1, 7):
        names = Counter(
            mixture[p].source for p in range(block * mixture.block, (block + 1) * mixture.block)
        )
        assert names == {"big": 192, "small": 64}


def test_components_are_walked_by_epochs() -> None:
    mixture = MixtureSource([Numbers("big", 192), Numbers("small", 16)], (3, 1), seed=1)
    seen = [mixture.locate(p) for p in range(mixture.block)]
    assert Counter(index for part, index in seen if part == 0) == {i: 1 for i in range(192)}
    assert Counter(index for part, index in seen if part == 1) == {i: 4 for i in range(16)}


def test_small_weights_get_their_share() -> None:
    weights = np.array([0.989, 0.01, 0.001])
    mixture = MixtureSource([Numbers(n, 50) for n in "abc"], weights, seed=0)
    assert np.abs(mixture.shares / mixture.block / weights - 1).max() <= 0.01
    tiny = MixtureSource([Numbers("a", 5), Numbers("b", 5)], (1, 1e-9))
    assert tiny.shares[1] == 1 and tiny.block == 65536


def test_same_seed_same_order_other_seed_other_order() -> None:
    def walk(seed: int) -> list[tuple[int, int]]:
        mixture = MixtureSource([Numbers("a", 40), Numbers("b", 60)], (1, 1), seed)
        return [mixture.locate(p) for p in range(200)]

    assert walk(3) == walk(3)
    assert walk(3) != walk(4)


def test_endless_component_is_taken_in_order_without_repeats() -> None:
    mixture = MixtureSource([Numbers("rendered", ENDLESS), Numbers("b", 5)], (1, 1))
    indices = [i for part, i in map(mixture.locate, range(512)) if part == 0]
    assert sorted(indices) == list(range(256))


def test_mixture_errors() -> None:
    with pytest.raises(ValueError, match=r"data\.weights has 1 values for 2 sources"):
        MixtureSource([Numbers("a", 5), Numbers("b", 5)], (1,))
    with pytest.raises(ValueError, match=r"weight 0 of source 'b'"):
        MixtureSource([Numbers("a", 5), Numbers("b", 5)], (1, 0))
    with pytest.raises(ValueError, match=r"'b' of the mixture is empty"):
        MixtureSource([Numbers("a", 5), Numbers("b", 0)], (1, 1))


def test_concatenation() -> None:
    both = ConcatSource([Numbers("a", 2), Numbers("b", 3)])
    assert [(both[i].source, both[i].text) for i in range(len(both))] == [
        ("a", "0"), ("a", "1"), ("b", "0"), ("b", "1"), ("b", "2"),
    ]  # fmt: skip
    with pytest.raises(IndexError):
        both[5]
    with pytest.raises(ValueError, match="never ends"):
        ConcatSource([Numbers("a", 2), Numbers("rendered", ENDLESS)])
