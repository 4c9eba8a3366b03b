"""Attention over the tokens of an image as one TPU kernel: its weights never leave the chip.

The usual form writes the weights, (batch, heads, tokens, tokens), to memory and reads them again,
five times between forward and backward pass. Here an image's queries, keys and values are read as
the projection left them, (tokens, 3 width), and the backward pass computes the weights again.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

# Bytes of the images that a turn of the kernel reads and writes; twice that is held on the chip.
_BLOCK = 3_000_000

Qkv = Float[Array, "batch tokens three_width"]


def fits(tokens: int, width: int, heads: int) -> bool:
    """Whether the kernel takes these sizes: tiles of 128 tokens, half tiles of channels."""
    return tokens % 128 == 0 and tokens <= 1024 and width % (64 * heads) == 0


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    numbers = (((contract[0],), (contract[1],)), ((), ()))
    # Kernels know two precisions of float32 products alone: one pass of bfloat16, or all.
    one_pass = (None, "default", "fastest", "bfloat16")
    exact = a.dtype == jnp.float32 and jax.config.jax_default_matmul_precision not in one_pass
    precision = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a, b, numbers, precision=precision, preferred_element_type=jnp.float32
    )


def _weights(q: Array, k: Array, scale: float) -> Array:
    logits = _dot(q, k, (1, 1)) * scale
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _parts(qkv_ref: Any, image: Any, head: int, size: int) -> list[Array]:
    width = qkv_ref.shape[-1] // 3
    return [qkv_ref[image, :, _columns(i * width, head, size)] for i in range(3)]


def _columns(start: int, head: int, size: int) -> slice:
    return slice(start + head * size, start + (head + 1) * size)


def _forward_kernel(qkv_ref: Any, out_ref: Any, *, heads: int) -> None:
    size = out_ref.shape[-1] // heads

    def mix(image: Any, _: None) -> None:
        for head in range(heads):
            q, k, v = _parts(qkv_ref, image, head, size)
            mixed = _dot(_weights(q, k, size**-0.5).astype(v.dtype), v, (1, 0))
            out_ref[image, :, _columns(0, head, size)] = mixed.astype(out_ref.dtype)

    jax.lax.fori_loop(0, out_ref.shape[0], mix, None)


def _backward_kernel(qkv_ref: Any, d_out_ref: Any, d_qkv_ref: Any, *, heads: int) -> None:
    width = d_out_ref.shape[-1]
    size = width // heads
    scale = size**-0.5

    def unmix(image: Any, _: None) -> None:
        for head in range(heads):
            q, k, v = _parts(qkv_ref, image, head, size)
            d_mixed = d_out_ref[image, :, _columns(0, head, size)]
            weights = _weights(q, k, scale)
            d_weights = _dot(d_mixed, v, (1, 1))
            slope = weights * (d_weights - jnp.sum(weights * d_weights, axis=1, keepdims=True))
            slope = (slope * scale).astype(q.dtype)
            found = (
                _dot(slope, k, (1, 0)),
                _dot(slope, q, (0, 0)),
                _dot(weights.astype(v.dtype), d_mixed, (0, 0)),
            )
            for i, part in enumerate(found):
                columns = _columns(i * width, head, size)
                d_qkv_ref[image, :, columns] = part.astype(d_qkv_ref.dtype)

    jax.lax.fori_loop(0, d_out_ref.shape[0], unmix, None)


def _call(kernel: Any, arrays: tuple[Array, ...], width: int, heads: int, interpret: bool) -> Array:
    batch, tokens, _ = arrays[0].shape
    image = tokens * (width + sum(x.shape[-1] for x in arrays)) * arrays[0].dtype.itemsize
    rows = next(n for n in (8, 4, 2, 1) if batch % n == 0 and n * image <= _BLOCK or n == 1)

    def block(columns: int) -> pl.BlockSpec:
        return pl.BlockSpec((rows, tokens, columns), lambda image: (image, 0, 0))

    return pl.pallas_call(
        functools.partial(kernel, heads=heads),
        grid=(batch // rows,),
        in_specs=[block(x.shape[-1]) for x in arrays],
        out_specs=block(width),
        out_shape=jax.ShapeDtypeStruct((batch, tokens, width), arrays[0].dtype),
        interpret=interpret,
    )(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def fused_attention(
    qkv: Qkv, heads: int, interpret: bool = False
) -> Float[Array, "b tokens width"]:
    """Every token's mixture of values, heads side by side.

    Softmax and sums are float32; products take factors in the type of `qkv`.

    Args:
      qkv: queries, keys and values side by side, the heads of each side by side.
      heads: number of heads; `fits` says which sizes are taken.
      interpret: run the kernel as ordinary operations, for tests without a TPU.
    """
    return _call(_forward_kernel, (qkv,), qkv.shape[-1] // 3, heads, interpret)


def _forward(qkv: Array, heads: int, interpret: bool) -> tuple[Array, Array]:
    return fused_attention(qkv, heads, interpret), qkv


def _backward(heads: int, interpret: bool, qkv: Array, d_out: Array) -> tuple[Array]:
    return (_call(_backward_kernel, (qkv, d_out), qkv.shape[-1], heads, interpret),)


fused_attention.defvjp(_forward, _backward)
