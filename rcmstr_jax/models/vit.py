"""Vision transformer of 4×4 patches with fixed sinusoid positions (method section 3).

Pre-norm blocks, exact GELU, a bias on queries and values and none on keys, layer norm with epsilon
1e-6, no class token; features are taken after the final norm. There is no dropout; whole branches
of a block can be dropped (stochastic depth, Huang et al., arXiv 1603.09382).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from rcmstr_jax.models.fused_attention import fits, fused_attention
from rcmstr_jax.models.linear import LayerNorm, Linear, per_channel, promote_dtype
from rcmstr_jax.models.remat import kept
from rcmstr_jax.models.repeated import through
from rcmstr_jax.target import target_platform

# width, depth, heads
VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (512, 12, 8),
}
_EPSILON = 1e-6
Branches = Float[Array, "batch depth 2"]
"""What attention and MLP of every block are multiplied by, for each image."""


@functools.lru_cache(maxsize=8)
def sinusoid_positions(positions: int, width: int) -> np.ndarray:
    """Returns the fixed position table, float32 (positions, width).

    Even channels hold sin(p / 10000^(2j/width)), odd ones the cosine of the same angle.
    """
    channel = np.arange(width)
    angles = np.arange(positions)[:, None] / np.power(10000, 2 * (channel // 2) / width)
    table = np.where(channel % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)
    table.setflags(write=False)
    return table


class Attention(nn.Module):
    """Multi-head self-attention over tokens.

    Attributes:
      heads: number of heads; divides the width.
    """

    heads: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        active: Bool[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "b tokens width"]:
        """Mixes tokens; those that are not `active` are seen by none."""
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={width}")
        init = nn.initializers.xavier_uniform()
        kernel = self.param("qkv", init, (width, 3 * width), self.param_dtype)
        q_bias = self.param("q_bias", nn.initializers.zeros, (width,), self.param_dtype)
        v_bias = self.param("v_bias", nn.initializers.zeros, (width,), self.param_dtype)
        x, kernel, q_bias, v_bias = promote_dtype(x, kernel, q_bias, v_bias, dtype=self.dtype)
        qkv = x @ kernel
        bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
        qkv = kept(qkv + per_channel(bias, qkv))
        if target_platform() == "tpu" and active is None and fits(x.shape[1], width, self.heads):
            mixed = fused_attention(qkv, self.heads)
        else:
            mixed = mix_tokens(qkv, self.heads, active)
        return _xavier(width, self.dtype, self.param_dtype, "proj")(kept(mixed))


def mix_tokens(
    qkv: Float[Array, "batch tokens three_width"],
    heads: int,
    active: Bool[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch tokens width"]:
    """`fused_attention` written out, for every platform; only `active` tokens are seen."""
    query, keys, values = (
        rearrange(part, "b n (h d) -> b n h d", h=heads) for part in jnp.split(qkv, 3, axis=-1)
    )
    logits = jnp.einsum("bnhd,bmhd->bhnm", query * query.shape[-1] ** -0.5, keys)
    # Softmax in float32 at least: bfloat16 sums of 256 weights would lose the small ones.
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    if active is not None:  # finite, so that an image without an active token stays finite
        lowest = jnp.asarray(jnp.finfo(logits.dtype).min, logits.dtype)
        logits = jnp.where(active[:, None, None, :], logits, lowest)
    weights = jax.nn.softmax(logits)
    mixed = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(values.dtype), values)
    return rearrange(mixed, "b n h d -> b n (h d)")


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
      heads: number of attention heads.
      mlp_ratio: hidden width of the MLP over the block's width.
    """

    heads: int
    mlp_ratio: float = 4.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        active: Bool[Array, "batch tokens"] | None = None,
        branches: Float[Array, "batch 2"] | None = None,
    ) -> Float[Array, "b tokens width"]:
        """Mixes tokens; `branches` multiply what attention and MLP add to each image."""
        width, dtypes = x.shape[-1], (self.dtype, self.param_dtype)

        def scaled(y: Array, branch: int) -> Array:
            return y if branches is None else y * branches[:, branch, None, None].astype(y.dtype)

        y = _layer_norm(*dtypes, "norm1")(x)
        x = kept(x + scaled(Attention(self.heads, *dtypes, name="attn")(y, active), 0))
        y = _layer_norm(*dtypes, "norm2")(x)
        y = kept(_xavier(round(self.mlp_ratio * width), *dtypes, "fc1")(y))
        return x + scaled(_xavier(width, *dtypes, "fc2")(nn.gelu(y, approximate=False)), 1)


class VisionTransformer(nn.Module):
    """Patch tokens of an image, hidden ones replaced by a learnt mask token.

    Attributes:
      width: token width D.
      depth: number of blocks.
      heads: attention heads; `VIT_SIZES` holds the three published sizes.
      patch: height and width of a patch in pixels.
      dtype: dtype of the computation; None takes the promoted dtype of input and parameters.
      remat: what is kept for the backward pass, see `models/remat.py`.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: tuple[int, int] = (4, 4)
    mlp_ratio: float = 4.0
    dtype: Any = None
    param_dtype: Any = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        mask: Bool[Array, "batch rows columns"] | None = None,
        branches: Branches | None = None,
    ) -> tuple[Float[Array, "batch rows columns dim"], None]:
        """Encodes images.

        Args:
          images: (B, H, W, 3) in [-1, 1]; the patch must divide H and W.
          train: for interchange with the CNN; no layer here behaves differently in training.
          mask: True where a patch is hidden.
          branches: drop path, as `draw_branches` draws it; None keeps every branch.

        Returns:
          Tokens (B, H/4, W/4, D) after the final norm, and None (every frame is filled).

        Raises:
          ValueError: if the patch does not divide the image or the mask is of another grid.
        """
        del train
        batch, height, width, _ = images.shape
        if height % self.patch[0] or width % self.patch[1]:
            raise ValueError(
                f"image of {height}×{width} is not divisible by patch={self.patch}; "
                "a ViT takes images of 32×128"
            )
        rows, columns = height // self.patch[0], width // self.patch[1]
        if mask is not None and mask.shape != (batch, rows, columns):
            raise ValueError(f"mask of shape {mask.shape}, expected {(batch, rows, columns)}")
        dtypes = (self.dtype, self.param_dtype)
        x = rearrange(images, "b (r h) (c w) x -> b (r c) (h w x)", r=rows, c=columns)
        x = Linear(self.width, True, *dtypes, name="patch_embed")(x)
        # Created with or without a mask, so that one parameter tree serves both passes.
        token = self.param(
            "mask_token", nn.initializers.truncated_normal(0.02), (self.width,), self.param_dtype
        )
        if mask is not None:
            hidden = rearrange(mask, "b r c -> b (r c) 1")
            x = jnp.where(hidden, per_channel(token.astype(x.dtype), x), x)
        x = x + jnp.asarray(sinusoid_positions(rows * columns, self.width), x.dtype)[None]
        blocks = [
            Block(self.heads, self.mlp_ratio, *dtypes, name=f"block_{i}") for i in range(self.depth)
        ]
        each = None if branches is None else jnp.moveaxis(branches, 1, 0)
        x = through(blocks, x, None, each=each, again=self.remat != "none")
        x = _layer_norm(*dtypes, "norm")(x)
        return rearrange(x, "b (r c) d -> b r c d", r=rows), None


class PixelDecoder(nn.Module):
    """Reconstruction head of the ViT: two linear maps, layer norm, exact GELU, a linear map.

    The published pretraining head keeps a map without bias before another one; both are kept so
    that its weights load.

    Attributes:
      hidden: width of the two inner maps; None means half the tokens' width.
      output: numbers per patch, 3 × patch area.
    """

    hidden: int | None = None
    output: int = 48
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "*batch width"], filled: None = None
    ) -> Float[Array, "*batch output"]:
        """Predicts the numbers of every patch; `filled` is the CNN head's second argument."""
        del filled  # every token of a ViT is filled
        hidden = self.hidden or max(1, tokens.shape[-1] // 2)
        dtypes = (self.dtype, self.param_dtype)
        x = _xavier(hidden, *dtypes, "linear_0", use_bias=False)(tokens)
        x = _xavier(hidden, *dtypes, "linear_1", use_bias=False)(x)
        x = nn.gelu(_layer_norm(*dtypes, "norm")(x), approximate=False)
        return _xavier(self.output, *dtypes, "linear_2")(x)


def _xavier(
    features: int, dtype: Any, param_dtype: Any, name: str, use_bias: bool = True
) -> nn.Dense:
    """A dense layer with Xavier-uniform kernel and zero bias, as ViT recipes start."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        kernel_init=nn.initializers.xavier_uniform(),
        dtype=dtype,
        param_dtype=param_dtype,
        promote_dtype=promote_dtype,
        name=name,
    )


def _layer_norm(dtype: Any, param_dtype: Any, name: str) -> LayerNorm:
    # The two-pass variance: the fast one cancels for tokens whose mean is far from zero.
    return LayerNorm(
        epsilon=_EPSILON,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )
