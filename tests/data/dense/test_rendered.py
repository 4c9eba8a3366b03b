"""Rendered words with masks and in pairs: the renderer's own pictures, the same every time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.data.dense.rendered import RenderedMasks, RenderedPairs
from rcmstr_jax.data.synthetic import RenderOptions, SyntheticSource

FEW = RenderOptions(num_fonts=4)


def test_an_image_with_its_mask_is_the_image_without() -> None:
    plain = SyntheticSource(seed=3, options=FEW)
    masked = RenderedMasks("rendered", 3, 20, FEW, image_width=100)
    for index in range(20):
        word = masked[index]
        assert word.label == plain[index].text
        np.testing.assert_array_equal(word.image, decode_image(plain[index].image, (32, 100)))
        assert word.target.shape == (32, 100) and set(np.unique(word.target)) <= {0, 1}


@pytest.mark.parametrize("kind", [RenderedMasks, RenderedPairs])
def test_a_word_is_a_function_of_seed_and_index(kind: type) -> None:
    source = kind("rendered", 3, 9, FEW)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.name, len(copy)) == ("rendered", 9)
    for index in (8, 2, 2):
        for field in ("image", "target"):
            np.testing.assert_array_equal(
                getattr(source[index], field), getattr(copy[index], field)
            )
    assert not np.array_equal(source[1].image, kind("rendered", 4, 9, FEW)[1].image)


def test_pairs_have_their_sizes() -> None:
    word = RenderedPairs("rendered", 3, 9, FEW)[0]
    assert word.image.shape == (16, 64, 3) and word.target.shape == (32, 128, 3)
