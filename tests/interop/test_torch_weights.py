"""Strict import, export as its inverse, layouts and rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import LAYOUTS, Rule, under
from rcmstr_jax.interop.tables import BILSTM_STACK, RESNET, VIT
from rcmstr_jax.interop.torch_weights import (
    WeightMismatch,
    export_weights,
    flatten,
    import_weights,
    strip_prefixes,
    unflatten,
)
from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.vit import VisionTransformer

RULES = under("params/", "SequenceModeling.", BILSTM_STACK)


@pytest.fixture(scope="module")
def state_dict() -> tuple[dict, dict]:
    shapes = template(BiLSTMProjector(hidden=3, layers=1), jnp.zeros((1, 2, 5)))
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    return shapes, export_weights(flat, RULES)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("same", (3,)),
        ("linear", (3, 4)),
        ("conv", (2, 3, 4, 5)),
        ("patches", (48, 5)),
        ("row", (4,)),
        ("token", (4,)),
        ("scalar", ()),
    ],
)
def test_layouts_are_inverse(layout: str, shape: tuple[int, ...]) -> None:
    ours = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    theirs = LAYOUTS[layout].theirs(ours)
    assert theirs.shape == LAYOUTS[layout].their_shape(shape)
    np.testing.assert_array_equal(LAYOUTS[layout].ours(theirs), ours)


def test_convolutions_are_transposed_as_torch_has_them() -> None:
    theirs = LAYOUTS["conv"].theirs(np.zeros((3, 2, 5, 7)))
    assert theirs.shape == (7, 5, 3, 2)


def test_names_of_the_resnet() -> None:
    shapes = template(ResNet(width=16), jnp.zeros((1, 32, 32, 3)))
    rules = under("(?:params|batch_stats)/", "", RESNET)
    flat = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    names = export_weights(flat, rules)
    assert {"conv0_1.weight", "bn4_2.running_var", "layer3.4.conv2.weight"} <= set(names)
    assert "layer1.0.downsample.1.running_mean" in names
    assert names["bn0_1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize(
    "module",
    [ResNet(width=16, blocks=(1, 1, 1, 1)), VisionTransformer(8, 2, 2)],
    ids=["cnn", "vit"],
)
def test_import_after_export_is_the_identity_bit_for_bit(module) -> None:  # type: ignore[no-untyped-def]
    variables = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    flat = {path: np.asarray(leaf) for path, leaf in flatten(variables).items()}
    table = RESNET if isinstance(module, ResNet) else VIT
    rules = under("(?:params|batch_stats)/", "net.", table)
    back = import_weights(export_weights(flat, rules), flat, rules)
    assert list(back) == list(flat)
    for path, leaf in flat.items():
        assert back[path].tobytes() == leaf.tobytes() and back[path].dtype == leaf.dtype
    jax.tree.map(np.testing.assert_array_equal, unflatten(back), dict(variables))


def test_everything_that_differs_is_listed(state_dict) -> None:  # type: ignore[no-untyped-def]
    shapes, arrays = state_dict
    prefix = "SequenceModeling.0."
    broken = {**arrays, "extra.weight": np.zeros(2, np.float32)}
    del broken[f"{prefix}rnn.bias_ih_l0"]
    broken[f"{prefix}linear.weight"] = np.zeros((2, 2), np.float32)
    broken[f"{prefix}linear.bias"] = np.zeros(3, np.int64)
    with pytest.raises(WeightMismatch) as caught:
        import_weights(broken, shapes, RULES, where="some.pth")
    error = caught.value
    assert error.missing == [f"{prefix}rnn.bias_ih_l0"]
    assert error.unexpected == ["extra.weight"]
    assert {name for name, *_ in error.misshapen} == {
        f"{prefix}linear.bias",
        f"{prefix}linear.weight",
    }
    for word in ("some.pth", "missing (1)", "unexpected (1)", "misshapen (2)", "needs (3, 6)"):
        assert word in str(error)


def test_waived_names_take_the_template(state_dict) -> None:  # type: ignore[no-untyped-def]
    shapes, arrays = state_dict
    own = {path: np.full(leaf.shape, 7, np.float32) for path, leaf in shapes.items()}
    broken = {**arrays, "head.weight": np.zeros(2, np.float32)}
    del broken["SequenceModeling.0.linear.bias"]
    flat = import_weights(broken, own, RULES, waive=("head.*", "*.linear.bias"))
    np.testing.assert_array_equal(flat["params/layer_0/linear/bias"], 7)
    with pytest.raises(WeightMismatch):  # a shape without values cannot stand in
        import_weights(broken, shapes, RULES, waive=("head.*", "*.linear.bias"))


def test_derived_arrays_are_no_surprise(state_dict) -> None:  # type: ignore[no-untyped-def]
    shapes, arrays = state_dict
    derived = {
        "bn.num_batches_tracked": np.int64(3),
        "Transformation.GridGenerator.P_hat": np.zeros(3),
    }
    import_weights({**arrays, **derived}, shapes, RULES)


def test_unnamed_paths_are_listed() -> None:
    with pytest.raises(KeyError, match="params/unknown"):
        export_weights({"params/unknown": np.zeros(1)}, [Rule("params/known", "known")])


def test_prefixes_go_only_where_all_share_them() -> None:
    arrays = {"module.a": np.zeros(1), "module.b": np.zeros(1)}
    assert set(strip_prefixes(arrays, ("module.", "x."))) == {"a", "b"}
    assert set(strip_prefixes({**arrays, "c": np.zeros(1)}, ("module.",))) == {*arrays, "c"}
