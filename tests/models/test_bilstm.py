"""BiLSTM: hand values, the written-out gradient, both directions, initialisation."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import BILSTM_STACK
from rcmstr_jax.models.bilstm import BiLSTM, BiLSTMProjector, lstm_gates, scan_directions
from rcmstr_jax.verification.parity.fixture import Fixture


def plain_scan(inputs: jax.Array, weight_hh: jax.Array) -> jax.Array:
    """The recurrence as it is written in the books, differentiated by JAX."""
    hidden = cell = jnp.zeros((*inputs.shape[1:3], weight_hh.shape[1]), inputs.dtype)
    states = []
    for frame in inputs:
        hidden, cell = lstm_gates(frame + jnp.einsum("dbh,dhg->dbg", hidden, weight_hh), cell)
        states.append(hidden)
    return jnp.stack(states)


def test_cell_follows_the_gate_order_of_pytorch() -> None:
    # i = f = sigmoid(0) = 1/2, g = tanh(1), o = sigmoid(2); the cell held 3.
    hidden, cell = lstm_gates(jnp.array([0.0, 0.0, 1.0, 2.0]), jnp.array([3.0]))
    expected = 0.5 * 3 + 0.5 * np.tanh(1)
    np.testing.assert_allclose(cell, [expected], rtol=1e-6)
    np.testing.assert_allclose(hidden, [np.tanh(expected) / (1 + np.exp(-2))], rtol=1e-6)


def test_gradient_is_that_of_the_plain_recurrence(x64: None) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (5, 2, 3, 16), jnp.float64)
    weight = jax.random.normal(keys[1], (2, 4, 16), jnp.float64)
    cotangent = jax.random.normal(keys[2], (5, 2, 3, 4), jnp.float64)

    def total(scan):  # type: ignore[no-untyped-def]
        return lambda x, w: jnp.sum(scan(x, w) * cotangent)

    np.testing.assert_allclose(scan_directions(inputs, weight), plain_scan(inputs, weight))
    ours = jax.jit(jax.grad(total(scan_directions), argnums=(0, 1)))(inputs, weight)
    theirs = jax.grad(total(plain_scan), argnums=(0, 1))(inputs, weight)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_reading_backwards_with_swapped_directions_mirrors_the_result() -> None:
    module = BiLSTM(hidden=3, output=5)
    x = jax.random.normal(jax.random.key(1), (2, 7, 4))
    params = module.init(jax.random.key(2), x)["params"]
    mirrored = {
        name.replace("forward", "?").replace("backward", "forward").replace("?", "backward"): leaf
        for name, leaf in params.items()
    }
    kernel = params["linear"]["kernel"]
    mirrored["linear"] = {**params["linear"], "kernel": jnp.concatenate([kernel[3:], kernel[:3]])}
    ours = module.apply({"params": params}, x)
    theirs = module.apply({"params": mirrored}, x[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_starts_like_torch() -> None:
    params = BiLSTM(hidden=16, output=4).init(jax.random.key(0), jnp.zeros((1, 2, 8)))["params"]
    for name, leaf in params.items():
        if name != "linear":
            assert jnp.max(jnp.abs(leaf)) <= 16**-0.5
            assert jnp.max(jnp.abs(leaf)) > 0.8 * 16**-0.5
    assert jnp.max(jnp.abs(params["linear"]["kernel"])) <= 32**-0.5


def test_projector_matches_the_published_code(golden_dir: Path, x64: None) -> None:
    fixture = Fixture(golden_dir / "encoder_resnet_bilstm.npz")
    frames = fixture.array("eval/visual_feature")
    module = BiLSTMProjector(hidden=fixture.shape("sd/SequenceModeling.0.rnn.weight_hh_l0")[1])
    rules = under("params/", "", BILSTM_STACK)
    variables = fixture.weights("sd/SequenceModeling.", template(module, frames), rules)
    golden = fixture.raw("eval/contextual_feature")
    np.testing.assert_allclose(module.apply(variables, frames), golden, atol=1e-12)


def test_full_size_has_the_published_number_of_parameters() -> None:
    shapes = template(BiLSTMProjector(hidden=256), jnp.zeros((1, 26, 512)))
    lstm = [2 * (4 * 256) * (inputs + 256 + 2) for inputs in (512, 256)]
    assert sum(np.prod(leaf.shape) for leaf in shapes.values()) == sum(lstm) + 2 * (512 + 1) * 256


def test_no_layer_is_an_error() -> None:
    with pytest.raises(ValueError, match="layers=0"):
        BiLSTMProjector(layers=0).init(jax.random.key(0), jnp.zeros((1, 2, 3)))
