"""Targets, loss and heads of masked image modelling."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.vit import PixelDecoder
from rcmstr_jax.ssl import reconstruction
from tests.models import golden


def test_patches_run_over_rows_columns_channels() -> None:
    image = jnp.arange(2 * 4 * 3, dtype=jnp.float32).reshape(1, 2, 4, 3)
    patches = reconstruction.patchify(image, (2, 2))
    assert patches.shape == (1, 1, 2, 12)
    np.testing.assert_array_equal(patches[0, 0, 1], [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23])
    np.testing.assert_array_equal(reconstruction.unpatchify(patches, (2, 2)), image)


def test_patch_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="patch: 8 x 3 does not divide images of 32 x 100"):
        reconstruction.patchify(jnp.zeros((1, 32, 100, 3)), (8, 3))
    with pytest.raises(ValueError, match="patch: 10 values do not fill patches of 4 x 4"):
        reconstruction.unpatchify(jnp.zeros((1, 2, 2, 10)), (4, 4))


def test_matches_the_ancestor(golden_dir: Path, x64: None) -> None:
    arrays = golden.load(golden_dir / "vit_mim.npz")
    images = jnp.asarray(golden.channels_last(arrays["image"]))
    batch, patches, pixels = arrays["prediction"].shape
    grid = (images.shape[1] // 4, images.shape[2] // 4)
    weights = {name[3:]: value for name, value in arrays.items() if name.startswith("sd/")}
    params = {
        f"linear_{i}": {"kernel": weights[f"pix_decoder.{layer}.weight"].T}
        for i, layer in enumerate((0, 1, 4))
    }
    params["linear_2"]["bias"] = weights["pix_decoder.4.bias"]
    params["norm"] = {
        "scale": weights["pix_decoder.2.weight"],
        "bias": weights["pix_decoder.2.bias"],
    }
    tokens = arrays["features_masked"].reshape(batch, *grid, -1)
    head = PixelDecoder(hidden=params["linear_0"]["kernel"].shape[1], output=pixels)
    prediction = head.apply({"params": params}, jnp.asarray(tokens))
    # The file holds the images in float32, the ancestor saw them in float64.
    expected = arrays["prediction"]
    np.testing.assert_allclose(
        prediction.reshape(batch, patches, pixels), expected, atol=1e-9 * np.abs(expected).max()
    )
    target = reconstruction.patch_targets(images, (4, 4))
    np.testing.assert_allclose(
        target.reshape(batch, patches, pixels), arrays["target_normalized"], atol=1e-6
    )
    mask = jnp.asarray(arrays["mask"]).reshape(batch, *grid)
    raw = reconstruction.patch_targets(images, (4, 4), normalize=False)
    for goal, name in ((target, "loss_normalized"), (raw, "loss_raw")):
        total, count = reconstruction.reconstruction_loss(prediction, goal, mask)
        assert int(count) == int(mask.sum()) * pixels
        np.testing.assert_allclose(total / count, arrays[name], rtol=1e-6)


def test_loss_sees_hidden_patches_alone() -> None:
    target = jnp.zeros((2, 1, 3, 4))
    mask = jnp.asarray([[[True, False, False]], [[False, True, True]]])
    prediction = jnp.where(mask[..., None], 2.0, 100.0) * jnp.ones((1, 1, 1, 4))
    total, count = reconstruction.reconstruction_loss(prediction, target, mask)
    assert (float(total), float(count)) == (3 * 4 * 4.0, 12.0)


def test_features_are_standardised_at_every_place(x64: None) -> None:
    tokens = jax.random.normal(jax.random.key(0), (2, 3, 4, 8), jnp.float64) * 5 + 1
    target = reconstruction.feature_targets(tokens, 4)
    np.testing.assert_allclose(target.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(target.std(-1), 1, rtol=1e-6)
    at = np.asarray(tokens[1, 2, 3])
    np.testing.assert_allclose(target[1, 2, 3], (at - at.mean()) / at.std(), rtol=1e-6)
    # Of frames, a column takes the two that see it; a constant place has nothing to predict.
    frames = jnp.asarray([[[[0.0, 4.0], [2.0, 8.0], [6.0, 4.0], [2.0, 8.0]]]], jnp.float32)
    found = reconstruction.feature_targets(frames.astype(jnp.bfloat16), 3)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[0, 0], [[-1, 1], [-1, 1], [-1, 1]], rtol=1e-5)
    np.testing.assert_array_equal(reconstruction.feature_targets(jnp.ones((1, 1, 2, 5)), 2), 0)


def test_a_row_of_features_stands_for_all_patches_of_its_columns() -> None:
    mask = jnp.asarray([[[True, False, True], [True, False, False]]])
    prediction = jnp.asarray([[[[1.0, 2.0], [50.0, 50.0], [3.0, 0.0]]]])
    total, count = reconstruction.reconstruction_loss(prediction, jnp.zeros((1, 1, 3, 2)), mask)
    assert (float(total), float(count)) == (2 * (1 + 4) + 9, 3 * 2)


def test_restored_images_equal_the_originals() -> None:
    images = jax.random.uniform(jax.random.key(0), (2, 32, 100, 3), minval=-1.0, maxval=1.0)
    for normalize in (True, False):
        target = reconstruction.patch_targets(images, (8, 4), normalize)
        restored = reconstruction.restore_images(target, images, (8, 4), normalize)
        np.testing.assert_allclose(restored, images, atol=1e-5)


def test_cnn_head_fills_empty_frames_with_its_embedding() -> None:
    head = reconstruction.CnnReconstructionHead()
    frames = jax.random.normal(jax.random.key(1), (2, 26, 16))
    active = jax.random.bernoulli(jax.random.key(2), 0.5, (2, 26))
    variables = head.init(jax.random.key(0), frames, active)
    prediction = head.apply(variables, frames, active)
    assert prediction.shape == (2, 4, 25, 96)
    token = variables["params"]["mask_embedding"]
    filled = jnp.where(active[..., None], frames, token)
    np.testing.assert_array_equal(prediction, head.apply(variables, filled))
    other = jnp.where(active[..., None], frames, 7.0)
    np.testing.assert_array_equal(prediction, head.apply(variables, other, active))
