"""Colour operations against NumPy: every operation, what is drawn, and what off means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.augment import ColourJitter, ViewRanges, colour, make_view, views
from rcmstr_jax.augment.draws import fold_all, image_keys

STILL = {"grey": 0.0, "mixing": 0.0, "invert": 0.0, "gain": (1.0, 1.0), "brightness": (0.0, 0.0)}
# Not compiled as one: the small pieces are compiled once for all the jitters tested.
_draw = colour.draw_colours


def _colours(
    key: jax.Array, images: np.ndarray, indices: np.ndarray, jitter: ColourJitter
) -> jax.Array:
    keys = image_keys(key, len(images), jnp.asarray(indices))
    return colour.apply_colours(colour.draw_colours(keys, jitter), jnp.asarray(images))


_view = jax.jit(
    lambda key, images, indices, jitter: make_view(key, images, indices=indices, colour=jitter),
    static_argnums=3,
)


def _images(batch: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (batch, 8, 12, 3)).astype(np.float32)


def _numpy_draw(rng: np.random.Generator, jitter: ColourJitter) -> tuple[np.ndarray, float, float]:
    """One image's matrix, gain with sign, and brightness, written as the method states them."""
    if rng.random() >= jitter.probability:
        return np.eye(3), 1.0, 0.0
    matrix = np.eye(3)[rng.permutation(3)] + jitter.mixing * rng.standard_normal((3, 3))
    matrix /= np.abs(matrix).sum(1, keepdims=True)
    if rng.random() < jitter.grey:
        matrix = np.tile(colour.LUMA, (3, 1))
    gain = rng.uniform(*jitter.gain) * (-1 if rng.random() < jitter.invert else 1)
    return matrix, gain, rng.uniform(*jitter.brightness)


def test_the_map_of_colours_is_numpys() -> None:
    images, rng = _images(), np.random.default_rng(1)
    drawn = [_numpy_draw(rng, ColourJitter()) for _ in images]
    matrix, gain, brightness = (np.array(part, np.float32) for part in zip(*drawn, strict=True))
    out = colour.apply_colours(
        colour.ColourPlan(*map(jnp.asarray, (matrix, gain, brightness))), jnp.asarray(images)
    )
    expected = np.stack(
        [
            np.clip(g * (image @ m.T) + b, -1, 1)
            for image, m, g, b in zip(images, matrix, gain, brightness, strict=True)
        ]
    )
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grey": 1.0}, lambda x: np.repeat((x @ colour.LUMA)[..., None], 3, -1)),
        ({"invert": 1.0}, lambda x: -x),
        ({"gain": (0.6, 0.6)}, lambda x: 0.6 * x),
        ({"gain": (1.4, 1.4)}, lambda x: np.clip(1.4 * x, -1, 1)),
        ({"brightness": (0.3, 0.3)}, lambda x: np.clip(x + 0.3, -1, 1)),
        ({"probability": 0.0, "grey": 1.0, "invert": 1.0}, lambda x: x),
    ],
)
def test_every_operation_alone(changes: dict, expected: object) -> None:
    # Channels of a pixel that are alike survive every permutation.
    grey = np.repeat(_images()[..., :1], 3, -1)
    images = _images() if "probability" in changes or "grey" in changes else grey
    jitter = ColourJitter(**{**STILL, **changes})
    out = _colours(jax.random.key(0), images, np.arange(len(images)), jitter)
    np.testing.assert_allclose(out, expected(images), atol=1e-6)  # type: ignore[operator]


def test_permutations_alone_are_all_six_and_lossless() -> None:
    plan = _draw(jax.random.split(jax.random.key(0), 600), ColourJitter(**STILL))
    matrices, counts = np.unique(np.asarray(plan.matrix), axis=0, return_counts=True)
    assert len(matrices) == 6 and counts.min() > 60
    assert set(np.unique(matrices)) == {0.0, 1.0}
    assert (matrices.sum(1) == 1).all() and (matrices.sum(2) == 1).all()


def test_draws_have_numpys_means_and_ranges() -> None:
    jitter, count = ColourJitter(probability=0.8), 4000
    plan = _draw(jax.random.split(jax.random.key(2), count), jitter)
    rng = np.random.default_rng(3)
    drawn = zip(*(_numpy_draw(rng, jitter) for _ in range(count)), strict=True)
    reference = [np.asarray(part) for part in drawn]
    for ours, theirs in zip(map(np.asarray, plan), reference, strict=True):
        # Moments of one matrix entry or number: standard errors are below 0.015.
        np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.09)
        np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.06)
        np.testing.assert_allclose(np.abs(ours).mean(0), np.abs(theirs).mean(0), atol=0.06)
    np.testing.assert_allclose(np.abs(plan.matrix).sum(-1), 1, atol=1e-6)
    grey = np.isclose(plan.matrix, np.tile(colour.LUMA, (3, 1)), atol=1e-6).all((1, 2))
    assert grey.mean() == pytest.approx(0.8 * jitter.grey, abs=0.03)
    assert (np.asarray(plan.gain) < 0).mean() == pytest.approx(0.8 * jitter.invert, abs=0.03)
    size = np.abs(plan.gain)
    assert 0.6 <= size.min() < 0.61 and 1.39 < size.max() <= 1.4
    assert -0.3 <= plan.brightness.min() < -0.29 and 0.29 < plan.brightness.max() <= 0.3


def test_off_is_the_published_view_bit_for_bit() -> None:
    """The very same program; on, the colours of keys of their own follow it."""
    images, key = jnp.asarray(_images()), jax.random.key(4)

    def published(images: jax.Array) -> jax.Array:
        return views.apply_plan(views.draw_plan(image_keys(key, len(images))), images)

    def coloured(images: jax.Array) -> jax.Array:
        keys = image_keys(key, len(images))
        view = views.apply_plan(views.draw_plan(keys), images)
        return colour.apply_colours(colour.draw_colours(fold_all(keys, 9), ColourJitter()), view)

    def program(function: object, **options: object) -> str:
        return str(jax.make_jaxpr(lambda x: function(x, **options))(images))  # type: ignore[operator]

    def ours(images: jax.Array, **options: object) -> jax.Array:
        return make_view(key, images, **options)  # type: ignore[arg-type]

    assert program(ours) == program(published)
    assert program(ours, ranges=ViewRanges(), colour=None) == program(published)
    assert program(ours, colour=ColourJitter()) == program(coloured) != program(published)


def test_a_coloured_view_is_the_same_however_the_batch_is_made_up() -> None:
    images, key, numbers = _images(), jax.random.key(5), np.arange(6)
    whole = np.asarray(_view(key, images, numbers, ColourJitter()))
    assert np.abs(whole).max() <= 1 and whole.dtype == np.float32
    order = np.array([4, 0, 5, 2, 1, 3])
    shuffled = _view(key, images[order], order, ColourJitter())
    np.testing.assert_allclose(shuffled, whole[order], atol=2e-5)
    other = np.asarray(_view(key, images, numbers + 6, ColourJitter()))
    assert np.abs(other - whole).max((1, 2, 3)).min() > 0.05


def test_the_two_views_of_an_image_are_independent() -> None:
    first, second = (
        _draw(image_keys(jax.random.key(seed), 4000), ColourJitter()) for seed in (0, 1)
    )
    for one, two in zip(first, second, strict=True):
        flat = [np.asarray(part).reshape(4000, -1)[:, 0] for part in (one, two)]
        assert abs(np.corrcoef(*flat)[0, 1]) < 0.06


def test_float64_images_see_the_same_colours(x64: None) -> None:
    images, numbers = _images(), np.arange(6)
    double = _colours(jax.random.key(1), images.astype(np.float64), numbers, ColourJitter())
    assert double.dtype == jnp.float64
    single = _colours(jax.random.key(1), images, numbers, ColourJitter())
    np.testing.assert_allclose(single, double, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColourJitter(grey=1.2), r"ColourJitter.grey = 1.2: give a value from 0 to 1"),
        (lambda: ColourJitter(mixing=-1), r"ColourJitter.mixing = -1: give 0 or more"),
        (lambda: ColourJitter(gain=(1.4, 0.6)), r"ColourJitter.gain = \(1.4, 0.6\).*low <= high"),
        (lambda: ColourJitter(brightness=(-2, 0)), r"ColourJitter.brightness.*-1 <= low"),
        (lambda: ViewRanges(crop_rows=(0, 0.6)), r"ViewRanges.crop_rows.*high <= 0.45"),
        (lambda: ViewRanges(blur=(1.5, 0.5)), r"ViewRanges.blur = \(1.5, 0.5\)"),
        (
            lambda: make_view(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), colour=ColourJitter()),
            "three channels",
        ),
    ],
)
def test_bad_arguments_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
