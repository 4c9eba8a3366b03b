"""Views as a whole: identity, bounds, order, keys, and composition against step by step."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax import augment
from rcmstr_jax.augment import geometry, photometry, views
from rcmstr_jax.augment.draws import image_keys

# Compiled: one operation at a time, the same view takes twenty times as long to set up.
_view = jax.jit(lambda key, images, indices: augment.make_view(key, images, indices=indices))
_apply = jax.jit(views.apply_plan)
_compose = jax.jit(views.compose_geometry, static_argnums=(1, 2, 3))
_resample = jax.jit(geometry.resample)
NUMBERS = np.arange(8)
# Every operation alone, and the colours alone.
ALONE = {
    **{name: {"operations": (name,), "min_ops": 1, "max_ops": 1} for name in augment.OPERATIONS},
    "colours": {"min_ops": 0, "max_ops": 0, "colour": augment.ColourJitter()},
}


@jax.jit
def _blur(images: jax.Array, sigma: jax.Array) -> jax.Array:
    every = jnp.ones(len(images), bool)
    return photometry.filter_stage(
        images,
        blur=every,
        sigma=sigma,
        sharp=~every,
        alpha=0 * sigma,
        lightness=0 * sigma,
        contrast=jnp.ones_like(sigma),
        contrast_last=~every,
    )


def _images(batch: int = 8, height: int = 32, width: int = 40) -> jax.Array:
    return jax.random.uniform(jax.random.key(7), (batch, height, width, 3), minval=-1, maxval=1)


@functools.cache
def _drawn() -> views.Plan:
    """The plan of 2000 images, in NumPy so that 64-bit tests can take it too."""
    plan = jax.jit(views.draw_plan)(jax.random.split(jax.random.key(1), 2000))
    return jax.tree.map(np.asarray, plan)


def _smooth(batch: int, height: int, width: int) -> jax.Array:
    """Slowly varying images, which resampling twice hardly softens."""
    v, u = jnp.meshgrid(jnp.linspace(0, 1, height), jnp.linspace(0, 1, width), indexing="ij")
    u, v = u[None], v[None]
    phases = jnp.arange(float(batch))[:, None, None] + jnp.zeros((1, height, width))
    planes = [jnp.sin(2 * u + v + phases), jnp.cos(u - 2 * v + phases), jnp.sin(u * v + phases)]
    return 0.7 * jnp.stack(planes, -1)


def _plan(batch: int, only: dict[str, int]) -> views.Plan:
    """A drawn plan in which exactly the operations of `only` happen, at the times given."""
    idle = iter(range(len(only), len(views.OPERATIONS)))
    time = [only[name] if name in only else next(idle) for name in views.OPERATIONS]
    active = [name in only for name in views.OPERATIONS]
    return jax.tree.map(lambda part: jnp.asarray(part[:batch]), _drawn())._replace(
        active=jnp.tile(jnp.array(active), (batch, 1)),
        time=jnp.tile(jnp.array(time, jnp.int32), (batch, 1)),
    )


@pytest.mark.parametrize("name", ALONE)
def test_every_operation_keeps_the_contract(name: str) -> None:
    """Key first, options by keyword only, pure, keyed per image, type and range kept."""
    operation = functools.partial(augment.make_view, **ALONE[name])
    parameters = list(inspect.signature(operation).parameters.values())
    assert [p.name for p in parameters[:2]] == ["key", "images"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[2:])
    assert all(p.default is not inspect.Parameter.empty for p in parameters[2:])

    images, key = _images(), jax.random.key(1)
    compiled = jax.jit(lambda key, images, indices: operation(key, images, indices=indices))
    numbers = jnp.arange(len(images))
    out = compiled(key, images, numbers)
    assert out.shape == images.shape and out.dtype == images.dtype
    assert float(jnp.abs(out).max()) <= 1 + 1e-6
    assert not np.allclose(out, images, atol=1e-3)
    np.testing.assert_array_equal(out, compiled(key, images, numbers))
    assert not np.array_equal(out, compiled(jax.random.key(2), images, numbers))

    order = jnp.array([4, 0, 5, 2, 1, 3, 7, 6])
    shuffled = compiled(key, images[order], order)
    np.testing.assert_allclose(shuffled, out[order], atol=1e-5)
    unnumbered = jax.eval_shape(operation, key, images)
    assert unnumbered.shape == images.shape, "indices are optional"


@pytest.mark.parametrize("name", ALONE)
def test_every_operation_works_in_float64(name: str, x64: None) -> None:
    images = _images().astype(jnp.float64)
    operation = functools.partial(augment.make_view, **ALONE[name])
    out = jax.eval_shape(operation, jax.random.key(1), images)
    assert out.dtype == jnp.float64


def test_nothing_drawn_is_the_identity() -> None:
    images = _images()
    np.testing.assert_allclose(_apply(_plan(8, {}), images), images, atol=2e-5)
    shape = jax.eval_shape(
        lambda: augment.make_view(jax.random.key(0), images, min_ops=0, max_ops=0)
    )
    assert shape.shape == images.shape, "an empty draw is allowed"


def test_views_keep_shape_type_and_range() -> None:
    images = _images()
    for seed in range(4):
        view = _view(jax.random.key(seed), images, NUMBERS)
        assert view.shape == images.shape and view.dtype == jnp.float32
        assert bool(jnp.isfinite(view).all()) and float(jnp.abs(view).max()) <= 1
        moved = jnp.abs(view - images).max((1, 2, 3))
        assert float(moved.min()) > 0.01, "every image must get at least one operation"


def test_a_view_is_the_same_however_the_batch_is_made_up() -> None:
    images, key = _images(), jax.random.key(5)
    whole = _view(key, images, NUMBERS)
    for members in ([3, 1, 7, 0, 2, 6, 5, 4], [0, 1, 2, 3, 0, 1, 2, 3]):
        index = jnp.array(members)
        np.testing.assert_allclose(_view(key, images[index], index), whole[index], atol=2e-5)
    other = _view(key, images, NUMBERS + 8)
    assert float(jnp.abs(other - whole).max((1, 2, 3)).min()) > 0.01


def test_a_view_is_the_same_under_vmap() -> None:
    images, key = _images(), jax.random.key(5)
    one_by_one = jax.vmap(
        lambda image, number: augment.make_view(key, image[None], indices=number[None])[0]
    )
    alone = jax.jit(one_by_one)(images, NUMBERS)
    np.testing.assert_allclose(alone, _view(key, images, NUMBERS), atol=2e-5)


def test_numbers_and_kinds_are_drawn_evenly() -> None:
    plan = _drawn()
    counts = np.bincount(np.asarray(plan.active.sum(1)), minlength=8) / 2000
    assert counts[0] == counts[6] == counts[7] == 0
    np.testing.assert_allclose(counts[1:6], 0.2, atol=0.04)
    # On average 3 of the 7 operations, each as often as any other.
    np.testing.assert_allclose(plan.active.mean(0), 3 / 7, atol=0.04)
    assert (np.sort(plan.time, 1) == np.arange(7)).all()


def test_only_the_operations_that_may_happen_are_drawn() -> None:
    """As often as one another, with the strengths they have among all."""
    chosen, keys = ("blur", "perspective", "contrast"), jax.random.split(jax.random.key(1), 2000)
    plan = views.draw_plan(keys, min_ops=2, max_ops=2, operations=chosen)
    share = dict(zip(views.OPERATIONS, np.asarray(plan.active.mean(0)), strict=True))
    assert {name for name, found in share.items() if found} == set(chosen)
    np.testing.assert_allclose([share[name] for name in chosen], 2 / 3, atol=0.04)
    np.testing.assert_array_equal(plan.sigma, _drawn().sigma)
    np.testing.assert_array_equal(plan.homographies, _drawn().homographies)


def test_strengths_stay_in_the_ranges_of_the_method() -> None:
    plan = _drawn()
    for values, (low, high) in [
        (plan.contrast, (0.5, 1.0)),
        (plan.sigma, (0.5, 1.5)),
        (plan.sharpen[:, 0], (0.0, 0.5)),
        (plan.sharpen[:, 1], (0.0, 0.5)),
        (plan.homographies[:, 0, 1, 2], (0.0, 0.4)),
        (1 - plan.homographies[:, 0, 1, 1] - plan.homographies[:, 0, 1, 2], (0.0, 0.4)),
        (plan.homographies[:, 1, 0, 2], (0.0, 0.02)),
    ]:
        spread = high - low
        assert low - 1e-6 <= float(values.min()) < low + 0.02 * spread
        assert high - 0.02 * spread < float(values.max()) <= high + 1e-6


def test_columns_never_swap() -> None:
    plan = jax.tree.map(lambda part: part[:500], _drawn())
    plan = plan._replace(active=np.ones_like(plan.active))
    u, v = _compose(plan, 32, 100, jnp.float32)
    assert float(jnp.diff(u, axis=2).min()) > -0.02 / 100
    inner = jnp.diff(u[:, :, 10:90], axis=2)
    assert float(inner.min()) > 0.2 / 100
    assert float(jnp.diff(v, axis=1).min()) > -0.02 / 32


@pytest.mark.parametrize(
    "order",
    [
        ("crop_rows", "crop_columns", "perspective", "piecewise_affine"),
        ("piecewise_affine", "perspective", "crop_columns", "crop_rows"),
        ("perspective", "piecewise_affine", "crop_rows", "crop_columns"),
        ("crop_columns", "crop_rows", "piecewise_affine"),
        ("perspective", "crop_rows"),
    ],
)
def test_one_resampling_equals_one_after_another(order: tuple[str, ...], x64: None) -> None:
    height, width = 256, 320  # fine enough that each extra resampling costs next to nothing
    plan = _plan(3, {name: time for time, name in enumerate(order)})
    images = _smooth(3, height, width)
    at_once = _resample(images, *_compose(plan, height, width, jnp.float64))
    steps = images
    for name in order:
        u, v = jnp.broadcast_arrays(*geometry.pixel_centres(height, width, jnp.float64))
        if name == "piecewise_affine":
            u, v = geometry.apply_piecewise_affine(plan.offsets.astype(jnp.float64), u, v)
        else:
            homography = plan.homographies[:, views.OPERATIONS.index(name)]
            u, v = geometry.apply_homography(homography.astype(jnp.float64), u, v)
        steps = _resample(steps, u, v)
    np.testing.assert_allclose(at_once, steps, atol=2e-3)
    backwards = _plan(3, {name: len(order) - time for time, name in enumerate(order)})
    other = _resample(images, *_compose(backwards, height, width, jnp.float64))
    assert float(jnp.abs(other - steps).max()) > 4e-3, "the order must matter to this test"


def test_blur_keeps_its_side_of_the_row_crop() -> None:
    images = _images()
    before = _apply(_plan(8, {"blur": 0, "crop_rows": 1}), images)
    after = _apply(_plan(8, {"crop_rows": 0, "blur": 1}), images)
    plan = _plan(8, {"crop_rows": 0, "blur": 1})
    u, v = _compose(plan, 32, 40, jnp.float32)
    blurred_first = _resample(_blur(images, plan.sigma), u, v)
    blurred_last = _blur(_resample(images, u, v), plan.sigma)
    np.testing.assert_allclose(before, blurred_first, atol=2e-5)
    np.testing.assert_allclose(after, blurred_last, atol=2e-5)


def test_float32_agrees_with_float64(x64: None) -> None:
    plan = jax.tree.map(lambda part: jnp.asarray(part[:8]), _drawn())
    images = _images().astype(jnp.float32)
    double = _apply(plan, images.astype(jnp.float64))
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(_apply(plan, images), double, atol=2e-4)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (jnp.zeros((2, 8, 8, 3)), {"max_ops": 8}, "max_ops=8.*<= 7"),
        (jnp.zeros((2, 8, 8, 3)), {"min_ops": 3, "max_ops": 2}, "min_ops=3, max_ops=2"),
        (jnp.zeros((2, 8, 8, 3)), {"operations": ("blur", "flip")}, "flip.*choose from.*blur"),
        (jnp.zeros((2, 8, 8, 3)), {"operations": ("blur",)}, "max_ops=5.*<= 1 operations"),
        (jnp.zeros((8, 8, 3)), {}, r"\(8, 8, 3\).*batch, height, width, channels"),
        (jnp.zeros((2, 8, 8, 3), jnp.uint8), {}, "uint8.*floats in"),
        (jnp.zeros((2, 8, 8, 3)), {"indices": jnp.arange(3)}, r"indices has shape \(3,\) for 2"),
    ],
)
def test_bad_arguments_are_named(
    images: jax.Array, options: dict, message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        augment.make_view(jax.random.key(0), images, **options)


def test_keys_follow_the_number_of_the_image() -> None:
    keys = image_keys(jax.random.key(0), 3)
    again = image_keys(jax.random.key(0), 2, jnp.array([2, 0]))
    data = jax.random.key_data
    np.testing.assert_array_equal(data(again), data(keys)[jnp.array([2, 0])])
