"""Every switch of the method changes what it should, and nothing else to the last bit.

One small network and one state serve all switches. The passes run operation by operation: compiled
as a whole, two programs may round differently where they compute the same.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.models.rcmstr import MOMENTUM_PARTS
from rcmstr_jax.ssl import objective
from rcmstr_jax.ssl.momentum import ema_update, momentum_schedule
from rcmstr_jax.ssl.queue import enqueue
from rcmstr_jax.ssl.relational import relational_terms
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from rcmstr_jax.training.pretrain_step import encode_keys, online_losses
from rcmstr_jax.training.state import PretrainState, fresh_state, select_parts
from rcmstr_jax.training.step_inputs import draw_inputs

BATCH = 4
KEY = 5
Numbers = dict[str, np.ndarray]


def make_plan(**changes: Any) -> PretrainPlan:
    """A CNN of 12 frames with every loss; each view is the image itself."""
    config = mini.get_config("test")
    config.batch_size = BATCH
    config.total_images = 10 * BATCH
    config.momentum.reference_batch = BATCH
    config.model.image_width = 44
    config.model.blocks = (1, 0, 0, 1)
    config.model.projector = "mlp"
    config.mim.form = "masked_dense"
    config.views.enabled = False
    config.contrast.queue_size = 96
    config.contrast.chunk = 512
    config.momentum.value = 0.9
    config.optimizer.warmup_images = 0
    config.key_norm = "local"
    config.update_from_flattened_dict(changes)
    return pretrain_plan(config)


@pytest.fixture(scope="module", autouse=True)
def double() -> Iterator[None]:
    """Float64; and each streamed term as one program, which switches with the same sizes share."""
    streamed = jax.jit(
        relational_terms,
        static_argnames=(
            *("temperature", "relation_temperature", "chunk"),
            *("contrast", "relation", "product_dtype"),
        ),
    )
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "relational_terms", streamed)
        yield


def to_double(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


@pytest.fixture(scope="module")
def state() -> PretrainState:
    """The start of a run, its momentum branch lagging behind."""
    plan = make_plan()
    with jax.enable_x64(False):
        fresh = fresh_state(plan, build_model(plan), make_optimizer(plan.optimizer)[0])
    fresh = to_double(fresh)
    lagging = jax.tree.map(lambda x: 0.8 * x + 0.01, fresh.momentum_params)
    return fresh.replace(momentum_params=lagging, step=jnp.int32(3))  # type: ignore[attr-defined]


def outcome(state: PretrainState, plan: PretrainPlan) -> Numbers:
    """Everything that the two halves of a step find, by name."""
    key = jax.random.key(KEY)
    shape = (BATCH, *plan.model.image_size, 3)
    images = jax.random.uniform(jax.random.key(1), shape, jnp.float64, -1.0, 1.0)
    model = build_model(plan)
    inputs = draw_inputs(plan, key, images, jnp.arange(BATCH))
    momentum = momentum_schedule(
        state.step, plan.loop.total_steps, plan.momentum.value, plan.momentum.final
    )
    online = select_parts(state.params, MOMENTUM_PARTS)
    params = ema_update(state.momentum_params, online, momentum)
    variables = {"params": params, "batch_stats": state.momentum_batch_stats}
    keys, _, momentum_stats = encode_keys(model, variables, inputs["view_k"])
    queues = {
        name: enqueue(state.queues[name], keys[name].reshape(-1, keys[name].shape[-1]))
        for name in plan.queue_sizes
    }
    contents = {name: queue.keys for name, queue in queues.items()}
    _, (stats, metrics) = online_losses(
        model,
        state.params,
        state,
        inputs,
        keys,
        contents,
        contrast=plan.contrast,
        blocks=plan.rearrange.blocks if plan.rearrange else None,
        mask=plan.mask,
    )
    found: dict[str, Any] = {
        **metrics,
        **{f"input {name}": value for name, value in inputs.items()},
        **{f"keys {name}": value for name, value in keys.items()},
        **{f"queue {name}": value for name, value in contents.items()},
        "momentum params": params,
        "momentum statistics": momentum_stats,
        "statistics": stats,
    }
    return {
        name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(value)])
        for name, value in found.items()
    }


@pytest.fixture(scope="module")
def base(state: PretrainState) -> Numbers:
    return outcome(state, make_plan())


def changed(before: Numbers, after: Numbers) -> set[str]:
    """Names that appear, vanish or differ in any bit."""
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not np.array_equal(before[name], after[name])
    }


WITHIN = ["nce/frame", "nce/subword", "nce/word"]
KL_WITHIN = ["relation_kl/frame", "relation_kl/subword", "relation_kl/word"]
KL_BETWEEN = ["relation_kl/frame_subword", "relation_kl/subword_word"]
KL = [*KL_WITHIN, *KL_BETWEEN]
CONTRAST = ["loss/contrast", "loss"]
RECONSTRUCTION = ["loss/mim", "loss"]
MASK = ["input mask", *RECONSTRUCTION]
# Every number that depends on the momentum branch.
KEYS = ["keys *", "queue *", "momentum *", *WITHIN, *KL, "relation_entropy/*", *CONTRAST]
REARRANGED = ["input permutation", *WITHIN, *KL_WITHIN, "statistics", *CONTRAST]

# Switch -> names (patterns) that must change. Nothing else may, but for accuracies, which are
# counts: they may stay where a similarity moves a little.
SWITCHES: list[tuple[dict[str, Any], list[str]]] = [
    ({"rearrange.enabled": False}, REARRANGED),
    ({"rearrange.shared_permutation": True}, REARRANGED),
    ({"rearrange.group": 4}, REARRANGED),
    ({"rearrange.blocks": 4}, REARRANGED),
    ({"contrast.relation": False}, [*KL, "relation_entropy/*", *CONTRAST]),
    ({"contrast.alpha": 0.5}, CONTRAST),
    ({"contrast.beta": 0.5}, ["nce/frame_subword", "nce/subword_word", *CONTRAST]),
    ({"contrast.kl_reduction": "mean"}, [*KL, *CONTRAST]),
    ({"contrast.temperature": 0.1}, [*WITHIN, *CONTRAST]),
    ({"contrast.relation_temperature": 0.05}, [*KL, "relation_entropy/*", *CONTRAST]),
    ({"contrast.pairs": ()}, [*KL_BETWEEN, "relation_entropy/*_*", *CONTRAST]),
    (
        {"contrast.pairs": ("frame_subword", "subword_word", "frame_word")},
        ["relation_kl/frame_word", "relation_entropy/frame_word", *CONTRAST],
    ),
    (
        {"contrast.hierarchies": ("frame", "subword")},  # words stay as wholes of sub-words
        ["nce/word", "accuracy/word", "relation_kl/word", "relation_entropy/word", *CONTRAST],
    ),
    (
        {"contrast.hierarchies": ("subword",), "contrast.pairs": ()},
        [
            *["nce/frame", "nce/word", "accuracy/frame", "accuracy/word"],
            *["relation_kl/frame", "relation_kl/word", *KL_BETWEEN],
            *["relation_entropy/frame", "relation_entropy/word", "relation_entropy/*_*"],
            *["keys frame", "keys word", "queue frame", "queue word", *CONTRAST],
        ],
    ),
    (
        {"contrast.subwords": 3},
        [
            *["nce/subword", "relation_kl/subword", *KL_BETWEEN],
            *["relation_entropy/subword", "relation_entropy/frame_subword"],
            *["keys subword", "queue subword", *CONTRAST],
        ],
    ),
    ({"mim.enabled": False}, MASK),
    ({"mim.weight": 5.0}, ["loss"]),
    ({"mim.mask_ratio": 0.5}, MASK),
    ({"mim.block_ratio": 0.3}, MASK),
    ({"mim.kind": "patch"}, MASK),
    ({"mim.kind": "block", "mim.block_ratio": 0.5}, MASK),
    ({"mim.form": "dense"}, RECONSTRUCTION),
    ({"mim.normalize_targets": False}, RECONSTRUCTION),
    ({"mim.coupled": True}, [*WITHIN, *KL, "statistics", *CONTRAST]),
    ({"momentum.value": 0.99}, KEYS),
    ({"momentum.final": 1.0}, KEYS),
]


@pytest.mark.parametrize(("switch", "expected"), SWITCHES, ids=lambda v: str(v)[:60])
def test_a_switch_changes_its_own_numbers_alone(
    switch: dict[str, Any], expected: list[str], state: PretrainState, base: Numbers
) -> None:
    found = outcome(state, make_plan(**switch))
    names = base.keys() | found.keys()
    wanted = {name for pattern in expected for name in fnmatch.filter(names, pattern)}
    assert all(fnmatch.filter(names, pattern) for pattern in expected)
    differs = changed(base, found)
    assert wanted <= differs, f"should have changed: {sorted(wanted - differs)}"
    rest = {name for name in differs - wanted if not name.startswith("accuracy/")}
    assert not rest, f"should have stayed: {sorted(rest)}"
    assert all(np.isfinite(value).all() for value in found.values())


def test_the_reductions_differ_by_the_length_of_the_queue(
    state: PretrainState, base: Numbers
) -> None:
    plan = make_plan(**{"contrast.kl_reduction": "mean"})
    found, sizes = outcome(state, plan), plan.queue_sizes
    for name in KL:
        entries = sizes[name.split("/")[1].split("_")[-1]]
        np.testing.assert_array_equal(found[name], base[name] / entries)


@pytest.mark.parametrize("switch", [{"mim.form": "packed"}, {"contrast.chunk": 36}], ids=str)
def test_what_only_saves_time_or_memory_changes_no_number(
    switch: dict[str, Any], state: PretrainState, base: Numbers
) -> None:
    found = outcome(state, make_plan(**switch))
    assert found.keys() == base.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, base[name], rtol=1e-10, atol=1e-13, err_msg=name)


def test_parts_of_the_total(state: PretrainState) -> None:
    changes = {"contrast.alpha": 0.2, "contrast.beta": 0.7, "mim.weight": 3.0}
    found = outcome(state, make_plan(**changes))
    contrast = sum(found[name] + 0.2 * found[f"relation_kl/{name[4:]}"] for name in WITHIN)
    for pair in ("frame_subword", "subword_word"):
        contrast += 0.7 * found[f"nce/{pair}"] + 0.2 * found[f"relation_kl/{pair}"]
    np.testing.assert_allclose(found["loss/contrast"], contrast, rtol=1e-12)
    np.testing.assert_allclose(found["loss"], contrast + 3 * found["loss/mim"], rtol=1e-12)


def test_permutations_by_group_and_by_batch() -> None:
    def draw(shared: bool) -> np.ndarray:
        plan = make_plan(**{"rearrange.shared_permutation": shared, "mim.enabled": False})
        images = jnp.zeros((32, *plan.model.image_size, 3))
        inputs = draw_inputs(plan, jax.random.key(KEY), images, jnp.arange(32))
        return np.asarray(inputs["permutation"])

    by_group, by_batch = draw(False), draw(True)
    assert by_group.shape == by_batch.shape == (16, 4)
    assert len(np.unique(by_group, axis=0)) > 4
    assert len(np.unique(by_batch, axis=0)) == 1


def test_views_are_a_switch_of_their_own() -> None:
    def draw(**changes: Any) -> dict[str, jax.Array]:
        plan = make_plan(**changes)
        shape = (2, *plan.model.image_size, 3)
        images = jax.random.uniform(jax.random.key(2), shape, jnp.float32)
        inputs = draw_inputs(plan, jax.random.key(KEY), images, jnp.arange(2))
        return {**inputs, "image": images}

    with jax.enable_x64(False):
        off, one, five = (
            draw(**{"views.enabled": count > 0, "views.max_ops": max(count, 1)})
            for count in (0, 1, 5)
        )
    for view in ("view_q", "view_k"):
        np.testing.assert_array_equal(off[view], off["image"])
        assert not np.array_equal(one[view], off[view])
        assert not np.array_equal(five[view], one[view])
    for name in ("permutation", "mask"):
        np.testing.assert_array_equal(off[name], one[name])
        np.testing.assert_array_equal(off[name], five[name])
