"""Bidirectional LSTMs with PyTorch's parameterisation, shaped for one scan.

The projector of the CNN (method section 3) and the sequence model of both decoders. Gates are in
PyTorch's order (input, forget, cell, output) and both bias vectors are kept, so that weights of
published checkpoints interchange bit for bit; kernels are stored transposed, (inputs, 4 hidden).

Speed: the input projections of the whole sequence and of both directions are one matrix product
outside the scan, and one scan step advances both directions.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from rcmstr_jax.models.linear import Linear, uniform_within

DIRECTIONS: tuple[str, ...] = ("forward", "backward")
# Steps per iteration of the scan. Measured on 2 CPU cores, see tests/models/test_bilstm.py.
UNROLL = 2


def lstm_gates(
    gates: Float[Array, "*batch four_hidden"], cell: Float[Array, "*batch hidden"]
) -> tuple[Float[Array, "*batch hidden"], Float[Array, "*batch hidden"]]:
    """Advances an LSTM cell from its pre-activations; gates in PyTorch's order i, f, g, o.

    Returns:
        (hidden, cell) after the step.
    """
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def scan_directions(
    inputs: Float[Array, "time directions batch four_hidden"],
    weight_hh: Float[Array, "directions hidden four_hidden"],
) -> Float[Array, "time directions batch hidden"]:
    """Runs independent LSTMs side by side from a zero state.

    Args:
        inputs: projected inputs with the biases added, in the order each direction reads them.
        weight_hh: recurrent kernels.

    Returns:
        Hidden states, in the order of `inputs`.
    """
    _, directions, batch, _ = inputs.shape
    zero = jnp.zeros((directions, batch, weight_hh.shape[1]), inputs.dtype)

    def step(
        carry: tuple[jax.Array, jax.Array], projected: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        hidden, cell = carry
        gates = projected + jnp.einsum("dbh,dhg->dbg", hidden, weight_hh)
        hidden, cell = lstm_gates(gates, cell)
        return (hidden, cell), hidden

    _, states = jax.lax.scan(step, (zero, zero), inputs, unroll=UNROLL)
    return states


class BiLSTM(nn.Module):
    """Bidirectional LSTM over frames, then a linear map of both directions' states.

    Initialised like `torch.nn.LSTM`: all weights and biases from U(-1/sqrt(H), 1/sqrt(H)).

    Attributes:
        hidden: size H of each direction's state.
        output: width of the result.
        dtype: dtype of the computation; None takes the promoted dtype of input and parameters.
    """

    hidden: int = 256
    output: int = 256
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames dim"]) -> Float[Array, "batch frames output"]:
        gates = 4 * self.hidden
        init = uniform_within(self.hidden**-0.5)
        shapes = {
            "weight_ih": (x.shape[-1], gates),
            "weight_hh": (self.hidden, gates),
            "bias_ih": (gates,),
            "bias_hh": (gates,),
        }
        parts: dict[str, list[jax.Array]] = {name: [] for name in shapes}
        for direction in DIRECTIONS:
            for name, shape in shapes.items():
                weight = self.param(f"{direction}_{name}", init, shape, self.param_dtype)
                parts[name].append(weight)
        weight_ih = jnp.concatenate(parts["weight_ih"], axis=-1)
        weight_hh = jnp.stack(parts["weight_hh"])
        bias = jnp.stack(parts["bias_ih"]) + jnp.stack(parts["bias_hh"])
        x, weight_ih, weight_hh, bias = promote_dtype(
            x, weight_ih, weight_hh, bias, dtype=self.dtype
        )
        batch, frames, _ = x.shape
        time_major = jnp.swapaxes(x, 0, 1).reshape(frames * batch, -1)
        projected = (time_major @ weight_ih).reshape(frames, batch, len(DIRECTIONS), gates)
        projected = jnp.swapaxes(projected + bias, 1, 2)
        projected = jnp.stack([projected[:, 0], projected[::-1, 1]], axis=1)
        states = scan_directions(projected, weight_hh)
        both = jnp.concatenate([states[:, 0], states[::-1, 1]], axis=-1)
        linear = Linear(
            self.output, dtype=self.dtype, param_dtype=self.param_dtype, name="linear"
        )
        return linear(jnp.swapaxes(both, 0, 1))


class BiLSTMProjector(nn.Module):
    """Stacked BiLSTMs, each `hidden` wide on the outside too (method section 3).

    Attributes:
        hidden: state size of every direction and width between the layers.
        output: width of the result; None means `hidden`.
        layers: number of BiLSTMs.
    """

    hidden: int = 256
    layers: int = 2
    output: int | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames dim"]) -> Float[Array, "batch frames output"]:
        if self.layers < 1:
            raise ValueError(f"layers={self.layers}: a BiLSTM projector needs at least one layer")
        for i in range(self.layers):
            last = i == self.layers - 1 and self.output is not None
            x = BiLSTM(
                hidden=self.hidden,
                output=(self.output or self.hidden) if last else self.hidden,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer_{i}",
            )(x)
        return x
