"""Every variant of the ladder is a whole step, full-size models have their sizes, key norms differ.

Steps and models are traced, not computed: shapes and numbers of parameters cost no arithmetic.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import ablation, rcmstr_cnn, rcmstr_vit
from rcmstr_jax.models.layers import BatchNorm
from rcmstr_jax.runtime import parallel
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import pretrain_plan
from rcmstr_jax.training.pretrain_step import encode_keys, make_pretrain_step
from rcmstr_jax.training.state import fresh_state


def shrink(config: ConfigDict) -> ConfigDict:
    """The same method on a network that is traced fast."""
    config.batch_size = 4
    config.contrast.queue_size = 256
    if config.model.encoder == "vit":
        config.model.depth = 1
    else:
        config.model.width = 16
        config.model.blocks = (1, 0, 1) if config.model.encoder == "compact" else (1, 0, 0, 1)
        config.model.image_width = 44
    config.views.enabled = False
    return config


def trace_step(config: ConfigDict) -> tuple[Any, Any, dict[str, Any]]:
    """Shapes of the state before and after a step, and of its metrics."""
    plan = pretrain_plan(config)
    model = build_model(plan)
    optimizer, schedule = make_optimizer(plan.optimizer)
    before = jax.eval_shape(lambda: fresh_state(plan, model, optimizer))
    images = (plan.loop.batch_size, *plan.model.image_size, 3)
    batch = {
        "image": jax.ShapeDtypeStruct(images, jnp.uint8),
        "index": jax.ShapeDtypeStruct(images[:1], jnp.int32),
    }
    step = make_pretrain_step(plan, model, optimizer, schedule, axis_name=None)
    after, metrics = jax.eval_shape(step, before, batch)
    return before, after, metrics


SUBWORD, FRAME, WORD = "nce/subword", "nce/frame", "nce/word"
BETWEEN = "relation_kl/frame_subword"
# Rung -> what its step measures of these, and whether it rearranges and masks.
RUNGS: dict[str, tuple[set[str], bool, bool]] = {
    "seqmoco_no_relation": ({SUBWORD}, False, False),
    "seqmoco": ({SUBWORD, "relation_kl/subword"}, False, False),
    "rearrange": ({SUBWORD, "relation_kl/subword"}, True, False),
    "hierarchy": ({SUBWORD, "relation_kl/subword", FRAME, WORD}, True, False),
    "inter": ({SUBWORD, "relation_kl/subword", FRAME, WORD, BETWEEN}, True, False),
    "mim": ({SUBWORD, "relation_kl/subword", FRAME, WORD, BETWEEN, "loss/mim"}, True, True),
    "full": ({SUBWORD, "relation_kl/subword", FRAME, WORD, BETWEEN, "loss/mim"}, True, True),
}


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_is_a_step(rung: str) -> None:
    measured, rearranges, masks = RUNGS[rung]
    config = shrink(ablation.get_config(f"{rung},encoder=mini"))
    before, after, metrics = trace_step(config)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    watched = set.union(*(names for names, *_ in RUNGS.values()))
    assert watched & set(metrics) == measured
    assert (config.rearrange.enabled, "reconstruction" in before.params) == (rearranges, masks)
    levels = {"frame", "subword", "word"} if rung in ("hierarchy", "inter", "mim", "full") else None
    assert set(before.queues) == set(before.params["predictors"]) == (levels or {"subword"})


@pytest.mark.parametrize(
    "option",
    [
        # First values are those of `full`, but for the encoder and the form, which the mini world
        # sets to others.
        *(
            f"{name}={value}"
            for name, values in ablation.OPTIONS.items()
            for value in values[name not in ("encoder", "form") :]
        ),
        "coupled,form=packed",
        "coupled,form=dense",
        "encoder=vit,coupled",
    ],
)
def test_every_option_of_the_ladder_is_a_step(option: str) -> None:
    rung = "inter" if option == "recipe=ancestor" else "full"
    spec = f"{rung},{option}" if "encoder" in option else f"{rung},{option},encoder=mini"
    config = ablation.get_config(spec)
    pretrain_plan(config)
    before, after, metrics = trace_step(shrink(config))
    shapes = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (before, after)]
    assert shapes[0] == shapes[1]
    assert metrics["loss"].shape == ()


def count(config: ConfigDict) -> dict[str, int]:
    """Parameters of every part; nothing is computed."""
    config.mim.enabled = False
    plan = pretrain_plan(config)
    model = build_model(plan)
    images = jax.ShapeDtypeStruct((1, *plan.model.image_size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return {
        part: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
        for part, tree in shapes["params"].items()
    }


def test_full_size_cnn_has_the_published_number_of_parameters() -> None:
    sizes = count(rcmstr_cnn.get_config())
    assert set(sizes) == {"rectifier", "encoder", "projector", "predictors"}
    assert sum(sizes.values()) / 1e6 == pytest.approx(48.95, abs=0.005)


@pytest.mark.parametrize(("size", "width"), [("tiny", 192), ("small", 384), ("base", 512)])
def test_full_size_vits_have_their_number_of_parameters(size: str, width: int) -> None:
    # A block: attention 4 D^2, MLP 8 D^2; q, v and output biases 3 D, norms 4 D, MLP biases 5 D.
    # Around them: 4 x 4 x 3 pixels to D and a bias, the mask token, the last norm.
    encoder = 12 * (12 * width**2 + 12 * width) + 48 * width + width + width + 2 * width
    projector = width * 256 + 256 + 2 * (256 * 256 + 256)
    predictors = 3 * (256 * 128 + 128)
    sizes = count(rcmstr_vit.get_config(size))
    assert sizes == {"encoder": encoder, "projector": projector, "predictors": predictors}
    total = {"tiny": 5.63, "small": 21.64, "base": 38.21}[size]
    assert sum(sizes.values()) / 1e6 == pytest.approx(total, abs=0.005)


class MeanColour(nn.Module):
    """A branch that normalises by its batch: enough to see whose statistics entered a key."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        x = BatchNorm(axis_name=self.axis_name, name="bn")(images, train=train)
        return {"word": x.mean((1, 2))[:, None]}


def test_groups_of_a_batch_take_the_place_of_devices() -> None:
    """On one device: dealt anew, each group normalised by itself, and put back in order."""
    key = jax.random.key(3)
    images = jax.random.normal(jax.random.key(0), (8, 4, 6, 3))
    images = images + jnp.arange(8.0)[:, None, None, None]
    variables = MeanColour().init(key, images, train=False)

    def encode(images: jax.Array) -> Any:
        return encode_keys(
            MeanColour(), variables, images, shuffle=key, parts=4, axis_name=parallel.AXIS
        )

    keys, _, _ = jax.vmap(encode, axis_name=parallel.AXIS)(images[None])
    order = np.asarray(jax.random.permutation(key, 8))
    expected = np.empty((8, 3), np.float32)
    for rows in np.split(order, 4):
        out, _ = MeanColour().apply(variables, images[rows], train=True, mutable=["batch_stats"])
        expected[rows] = out["word"][:, 0]  # type: ignore[call-overload, index]
    np.testing.assert_allclose(keys["word"][0, :, 0], expected, rtol=1e-4, atol=1e-5)


def test_sampled_frames_and_groups_of_keys_are_a_step() -> None:
    config = shrink(ablation.get_config("full,encoder=mini"))
    config.contrast.frame_keys, config.key_groups = 3, 2
    config.contrast.queue_size = 100
    before, after, _ = trace_step(config)
    assert before.queues["frame"].keys.shape[0] == 96  # eight steps of 4 x 3
    assert before.queues["subword"].keys.shape[0] == 96
    shapes = [[x.shape for x in jax.tree.leaves(tree)] for tree in (before, after)]
    assert shapes[0] == shapes[1]


def test_a_sample_of_frames_gives_a_large_batch_a_queue_worth_its_name() -> None:
    config = rcmstr_vit.get_config("tiny")
    config.batch_size, config.contrast.frame_keys = 4096, 1
    plan = pretrain_plan(config)
    assert plan.queue_sizes["frame"] // (4096 * plan.keys_per_image["frame"]) == 16
    assert plan.model.vectors(plan.subwords)["frame"] == 32


@pytest.mark.parametrize("key_norm", ["local", "shuffle", "sync"])
def test_key_norm_decides_whose_statistics_enter_a_key(key_norm: str) -> None:
    devices, key = jax.local_device_count(), jax.random.key(3)
    images = jax.random.normal(jax.random.key(0), (2 * devices, 4, 6, 3))
    images = images + jnp.arange(2.0 * devices)[:, None, None, None]
    model: Any = MeanColour(parallel.AXIS if key_norm == "sync" else None)
    variables = MeanColour().init(key, images, train=False)
    shuffle = key if key_norm == "shuffle" else None

    def encode(_: Any, batch: dict[str, jax.Array]) -> Any:
        return encode_keys(
            model, variables, batch["image"], shuffle=shuffle, axis_name=parallel.AXIS
        )

    batch = parallel.shard_batch({"image": images})
    keys, everybody, _ = parallel.pmap_step(encode)(jnp.zeros(devices), batch)
    found = np.asarray(keys["word"]).reshape(2 * devices, 3)
    for copy in np.asarray(everybody["word"]).reshape(devices, 2 * devices, 3):
        np.testing.assert_array_equal(copy, found)

    def alone(rows: jax.Array) -> np.ndarray:
        images = jnp.asarray(rows)
        out, _ = MeanColour().apply(variables, images, train=True, mutable=["batch_stats"])
        return np.asarray(out["word"][:, 0])  # type: ignore[call-overload, index]

    order = np.arange(2 * devices)
    if key_norm == "shuffle":
        order = np.asarray(jax.random.permutation(key, 2 * devices))
        assert (order != np.arange(2 * devices)).any()
    parts = 1 if key_norm == "sync" else devices
    expected = np.empty_like(found)
    expected[order] = np.concatenate([alone(images[rows]) for rows in np.split(order, parts)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # The three differ: what a device sees of the others is the point of the switch.
    local = np.concatenate([alone(rows) for rows in np.split(np.asarray(images), devices)])
    assert np.allclose(found, local, atol=1e-3) == (key_norm == "local")
