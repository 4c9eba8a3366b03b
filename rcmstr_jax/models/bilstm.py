"""Bidirectional LSTMs with PyTorch's parameterisation, shaped for one scan.

The projector of the CNN (method section 3) and the sequence model of both decoders. Gates are in
PyTorch's order (input, forget, cell, output) and both bias vectors are kept, so that weights of
published checkpoints interchange bit for bit; kernels are stored transposed, (inputs, 4 hidden).

Speed: the input projections of the whole sequence and of both directions are one matrix product
outside the scan, and one scan step advances both directions.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from rcmstr_jax.models.linear import Linear, TypedModule, promote_dtype, uniform_within

DIRECTIONS: tuple[str, ...] = ("forward", "backward")


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


@jax.custom_vjp
def scan_directions(
    inputs: Float[Array, "time directions batch four_hidden"],
    weight_hh: Float[Array, "directions hidden four_hidden"],
) -> Float[Array, "time directions batch hidden"]:
    """Runs independent LSTMs side by side from a zero state.

    The backward pass is written out: all that does not wait for the next frame's gradient, the
    gradient of the recurrent kernel among it, is computed for the whole sequence at once.
    Reverse-mode differentiation only.

    Args:
      inputs: projected inputs with the biases added, in the order each direction reads them.
      weight_hh: recurrent kernels.

    Returns:
      Hidden states, in the order of `inputs`.
    """
    return _scan_forward(inputs, weight_hh)[0]


_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _scan_forward(inputs: jax.Array, weight_hh: jax.Array) -> tuple[jax.Array, _Residuals]:
    _, directions, batch, _ = inputs.shape
    zero = jnp.zeros((directions, batch, weight_hh.shape[1]), inputs.dtype)
    Carry = tuple[jax.Array, jax.Array]

    def step(carry: Carry, projected: jax.Array) -> tuple[Carry, tuple[jax.Array, ...]]:
        gates = projected + jnp.einsum("dbh,dhg->dbg", carry[0], weight_hh)
        hidden, cell = lstm_gates(gates, carry[1])
        return (hidden, cell), (hidden, cell, gates)

    _, (hiddens, cells, gates) = jax.lax.scan(step, (zero, zero), inputs)
    return hiddens, (hiddens, cells, gates, weight_hh)


def _scan_backward(residuals: _Residuals, d_hiddens: jax.Array) -> tuple[jax.Array, jax.Array]:
    hiddens, cells, gates, weight_hh = residuals
    zero = jnp.zeros_like(hiddens[:1])
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    tanh_cell = jnp.tanh(cells)
    earlier_cells = jnp.concatenate([zero, cells[:-1]])
    # Derivatives of the cell by the first three pre-activations, and of the hidden state by the
    # fourth and by the cell.
    by_ifg = jnp.stack([g * i * (1 - i), earlier_cells * f * (1 - f), i * (1 - g * g)], axis=3)
    transposed = jnp.swapaxes(weight_hh, 1, 2)
    by_o, by_cell = tanh_cell * o * (1 - o), o * (1 - tanh_cell * tanh_cell)
    Carry = tuple[jax.Array, jax.Array]

    def step(carry: Carry, frame: tuple[jax.Array, ...]) -> tuple[Carry, jax.Array]:
        d_hidden, d_cell = carry
        d_above, by_ifg, by_o, by_cell, f = frame
        d_hidden = d_hidden + d_above
        d_cell = d_cell + d_hidden * by_cell
        d_ifg = rearrange(d_cell[:, :, None] * by_ifg, "d b gate h -> d b (gate h)")
        d_gates = jnp.concatenate([d_ifg, d_hidden * by_o], axis=-1)
        return (jnp.einsum("dbg,dgh->dbh", d_gates, transposed), d_cell * f), d_gates

    frames = (d_hiddens, by_ifg, by_o, by_cell, f)
    _, d_gates = jax.lax.scan(step, (zero[0], zero[0]), frames, reverse=True)
    earlier_hiddens = jnp.concatenate([zero, hiddens[:-1]])
    return d_gates, jnp.einsum("tdbh,tdbg->dhg", earlier_hiddens, d_gates)


scan_directions.defvjp(_scan_forward, _scan_backward)


class BiLSTM(TypedModule):
    """Bidirectional LSTM over frames, then a linear map of both directions' states.

    Initialised like `torch.nn.LSTM`: all weights and biases from U(-1/sqrt(H), 1/sqrt(H)).

    Attributes:
      hidden: size H of each direction's state.
      output: width of the result.
    """

    hidden: int = 256
    output: int = 256

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
        projected = rearrange(x, "b t c -> (t b) c") @ weight_ih
        projected = rearrange(projected, "(t b) (d g) -> t d b g", b=x.shape[0], g=gates)
        projected = projected + bias[None, :, None]
        projected = jnp.stack([projected[:, 0], projected[::-1, 1]], axis=1)
        states = scan_directions(projected, weight_hh)
        both = jnp.concatenate([states[:, 0], states[::-1, 1]], axis=-1)
        linear = Linear(self.output, **self.dtypes, name="linear")
        return linear(rearrange(both, "t b h -> b t h"))


class BiLSTMProjector(TypedModule):
    """Stacked BiLSTMs, each `hidden` wide on the outside too (method section 3).

    Attributes:
      hidden: state size of every direction and width between the layers.
      output: width of the result; None means `hidden`.
      layers: number of BiLSTMs.
    """

    hidden: int = 256
    layers: int = 2
    output: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames dim"]) -> Float[Array, "batch frames output"]:
        if self.layers < 1:
            raise ValueError(f"layers={self.layers}: a BiLSTM projector needs at least one layer")
        for i in range(self.layers):
            last = i == self.layers - 1 and self.output is not None
            x = BiLSTM(
                hidden=self.hidden,
                output=(self.output or self.hidden) if last else self.hidden,
                **self.dtypes,
                name=f"layer_{i}",
            )(x)
        return x
