"""The affine map used by every head: PyTorch's default initialisation, Flax's parameter layout."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def promote_dtype(*arrays: Any, dtype: Any = None, **_: Any) -> list[Any]:
    """Arrays (None stays None) in one dtype: the given one, or the one that holds them all.

    As `flax.linen.dtypes.promote_dtype` (layers of Flax take this one as an argument), and said so
    explicitly that JAX need not promote.
    """
    if dtype is None:
        dtype = np.result_type(*(array.dtype for array in arrays if array is not None))
    return [None if array is None else jnp.asarray(array, dtype) for array in arrays]


def per_channel(vector: Shaped[Array, " channels"], like: Array) -> Shaped[Array, "..."]:
    """One number per channel with as many axes as `like`, channels last."""
    return jnp.expand_dims(vector, range(like.ndim - 1))


def uniform_within(bound: float) -> nn.initializers.Initializer:
    """Returns an initialiser that draws from U(-bound, bound)."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, *_: Any, **__: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class LayerNorm(nn.LayerNorm):
    """Flax's layer norm; how it promotes bfloat16 is left to JAX, also where JAX is strict."""

    def __call__(
        self, x: Float[Array, "*batch dim"], *, mask: Array | None = None
    ) -> Float[Array, "*batch dim"]:
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x, mask=mask)


class TypedModule(nn.Module, kw_only=True):
    """A module with the two types that Flax's layers have.

    Attributes:
      dtype: of the computation; None takes the promoted dtype of input and parameters.
      param_dtype: of the parameters when they are created.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def dtypes(self) -> dict[str, Any]:
        """Both, for the layers within."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class Linear(nn.Module):
    """`y = x @ kernel + bias`, initialised like `torch.nn.Linear`.

    Kernel and bias are drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which the published
    recipes rely on; `nn.Dense` would start with a kernel of another scale and a zero bias.

    Attributes:
      features: size of the last axis of the result.
      use_bias: whether a bias is added.
      dtype, param_dtype: as in `TypedModule`.
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        init = uniform_within(x.shape[-1] ** -0.5)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x @ kernel
        return y if bias is None else y + per_channel(bias, y)
