"""Autoregressive transformer decoder with cached keys and values (method section 8.3).

Pre-norm blocks: attention over the characters so far, attention over the frames, MLP. Teacher
forcing and search run the same code on a stretch of tokens; a search hands it one token at a time
and keeps what earlier tokens left in the cache. It is one compiled loop that ends as soon as every
word has its [EOS].
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Float, Int

from rcmstr_jax.models.linear import LayerNorm, Linear, TypedModule, promote_dtype
from rcmstr_jax.models.vit import sinusoid_positions

Frames = Float[Array, "batch frames dim"]
Tokens = Int[Array, "batch steps"]
Vectors = Float[Array, "batch steps width"]
Logits = Float[Array, "batch steps classes"]

PAD, SOS, EOS = 0, 2, 3
_EPSILON = 1e-6
Pair = tuple[Array, Array]
"""Keys and values, each (batch, positions, heads, width / heads)."""


class CrossBlock(TypedModule):
    """A block of the decoder.

    Attributes:
      width: width of the tokens.
      heads: attention heads; divides the width.
    """

    width: int
    heads: int

    def setup(self) -> None:
        self.self_norm, self.cross_norm, self.mlp_norm = (
            LayerNorm(epsilon=_EPSILON, **self.dtypes) for _ in range(3)
        )
        self.self_qkv = Linear(3 * self.width, **self.dtypes)
        self.self_out = Linear(self.width, **self.dtypes)
        self.cross_query = Linear(self.width, **self.dtypes)
        self.cross_key_value = Linear(2 * self.width, **self.dtypes)
        self.cross_out = Linear(self.width, **self.dtypes)
        self.mlp_in = Linear(4 * self.width, **self.dtypes)
        self.mlp_out = Linear(self.width, **self.dtypes)

    def remember(self, memory: Float[Array, "batch frames width"]) -> Pair:
        """Keys and values of the frames; computed once per image."""
        keys, values = jnp.split(self.cross_key_value(memory), 2, axis=-1)
        return self._by_head(keys), self._by_head(values)

    def __call__(
        self, x: Vectors, frames: Pair, cache: Pair, position: Int[Array, ""] | int
    ) -> tuple[Vectors, Pair]:
        """Runs a stretch of tokens that begins at `position`.

        Args:
          x: the tokens' vectors.
          frames: from `remember`.
          cache: keys and values of the tokens before; room for this stretch.
          position: number of tokens before.

        Returns:
          The vectors after the block, and the cache with this stretch in it.
        """
        query, *new = (
            self._by_head(part) for part in jnp.split(self.self_qkv(self.self_norm(x)), 3, axis=-1)
        )
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, part.astype(old.dtype), position, axis=1)
            for old, part in zip(cache, new, strict=True)
        )
        # A token sees itself and what is before it; places not yet written lie behind it.
        seen = jnp.arange(keys.shape[1])[None] <= position + jnp.arange(x.shape[1])[:, None]
        x = x + self.self_out(_attend(query, keys, values, seen)[0])
        query = self._by_head(self.cross_query(self.cross_norm(x)))
        mixed, weights = _attend(query, *frames)
        # (batch, steps, frames), mean over heads, for those who ask for the collection.
        self.sow("intermediates", "attention", jnp.mean(weights, axis=1))
        x = x + self.cross_out(mixed)
        hidden = nn.gelu(self.mlp_in(self.mlp_norm(x)), approximate=False)
        return x + self.mlp_out(hidden), (keys, values)

    def _by_head(self, x: Array) -> Array:
        return rearrange(x, "b n (h d) -> b n h d", h=self.heads)


def _attend(
    query: Array, keys: Array, values: Array, seen: Array | None = None
) -> tuple[Array, Array]:
    """The values as mixed by each query, and with which weights: (batch, heads, queries, keys)."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query * query.shape[-1] ** -0.5, keys)
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    if seen is not None:
        logits = jnp.where(seen[None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(values.dtype), values)
    return rearrange(mixed, "b q h d -> b q (h d)"), weights


class TransformerDecoder(TypedModule):
    """Reads frames one character at a time.

    Attributes:
      num_classes: classes: `Charset.num_attention_classes`.
      width: width of the tokens.
      depth: number of blocks.
      heads: attention heads; None takes one per 32 channels.
    """

    num_classes: int
    width: int = 256
    depth: int = 6
    heads: int | None = None

    def setup(self) -> None:
        heads = self.heads or max(1, self.width // 32)
        if self.width % heads:
            raise ValueError(f"heads={heads} does not divide width={self.width}")
        self.frame_map = Linear(self.width, **self.dtypes)
        self.frame_norm = LayerNorm(epsilon=_EPSILON, **self.dtypes)
        self.embedding = self.param(
            "embedding",
            nn.initializers.normal(self.width**-0.5),
            (self.num_classes, self.width),
            self.param_dtype,
        )
        self.blocks = [CrossBlock(self.width, heads, **self.dtypes) for _ in range(self.depth)]
        self.norm = LayerNorm(epsilon=_EPSILON, **self.dtypes)
        self.generator = Linear(self.num_classes, **self.dtypes)

    def __call__(self, frames: Frames, tokens: Tokens) -> Logits:
        """Logits under teacher forcing.

        Args:
          tokens: what is read at each step, [SOS] first: `encode_attention(...)[:, :-1]`.
        """
        memory = self.remember(frames)
        cache = self.empty_cache(memory, tokens.shape[1])
        return self.advance(tokens, memory, cache, 0)[0]

    def search(
        self,
        frames: Frames,
        max_length: int,
        beams: int,
        start_token: int = SOS,
        end_token: int = EOS,
    ) -> tuple[Tokens, Float[Array, "batch steps"]]:
        """The likeliest of `beams` words that are followed side by side.

        A word's score is its log-probability, [EOS] included, without a bonus for length: a search
        with one beam is greedy decoding.

        Args:
          max_length: number of steps: longest word plus one for [EOS].
          start_token: first token read.
          end_token: ends a word.

        Returns:
          Tokens, [EOS] among them, and their log-probabilities, 0 after the end.
        """
        module, variables = self.clone(parent=None, name=None), self.variables
        batch, classes = frames.shape[0], self.num_classes
        memory = jax.tree.map(
            lambda x: repeat(x, "b ... -> (b beams) ...", beams=beams), self.remember(frames)
        )
        padding = jnp.where(jnp.arange(classes) == PAD, 0.0, -jnp.inf)

        def unfinished(carry: Any) -> Array:
            step, _, _, _, ended, _ = carry
            return (step < max_length) & ~jnp.all(ended)

        def advance(carry: Any) -> Any:
            step, tokens, logs, scores, ended, cache = carry
            last = jax.lax.dynamic_index_in_dim(tokens, step, axis=2, keepdims=False)
            logits, cache = module.apply(
                variables, rearrange(last, "b k -> (b k) 1"), memory, cache, step, method="advance"
            )
            new = jax.nn.log_softmax(logits.astype(scores.dtype))
            # An ended word goes on in one way alone, at no cost.
            new = rearrange(new, "(b k) 1 c -> b k c", k=beams)
            new = jnp.where(ended[..., None], padding[None, None], new)
            total = rearrange(scores[..., None] + new, "b k c -> b (k c)")
            scores, chosen = jax.lax.top_k(total, beams)
            parent, token = chosen // classes, (chosen % classes).astype(jnp.int32)
            tokens, logs, ended = (
                jnp.take_along_axis(x, parent.reshape(batch, beams, *(1,) * (x.ndim - 2)), axis=1)
                for x in (tokens, logs, ended)
            )
            gained = jnp.take_along_axis(rearrange(new, "b k c -> b (k c)"), chosen, axis=1)
            tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, step + 1, axis=2)
            logs = jax.lax.dynamic_update_index_in_dim(logs, gained, step, axis=2)
            if beams > 1:
                rows = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
                cache = jax.tree.map(lambda x: x[rows], cache)
            return step + 1, tokens, logs, scores, ended | (token == end_token), cache

        tokens = jnp.full((batch, beams, max_length + 1), PAD, jnp.int32)
        # All beams start alike: only the first may go on, or the same word would fill them.
        precise = np.promote_types(memory[0][0].dtype, np.float32)
        scores = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf).astype(precise)
        carry = (
            0,
            tokens.at[:, :, 0].set(start_token),
            jnp.zeros((batch, beams, max_length), scores.dtype),
            jnp.broadcast_to(scores, (batch, beams)),
            jnp.zeros((batch, beams), bool),
            self.empty_cache(memory, max_length),
        )
        _, tokens, logs, *_ = jax.lax.while_loop(unfinished, advance, carry)
        return tokens[:, 0, 1:], logs[:, 0]  # top_k sorts: the first beam is the best

    def remember(self, frames: Frames) -> list[Pair]:
        """Keys and values of the frames for every block."""
        memory = self.frame_norm(self.frame_map(frames))
        positions = sinusoid_positions(frames.shape[1], self.width)
        memory = memory + positions.astype(memory.dtype)[None]
        return [block.remember(memory) for block in self.blocks]

    def empty_cache(self, memory: list[Pair], length: int) -> list[Pair]:
        """Room for the keys and values of `length` tokens in every block."""
        return jax.tree.map(
            lambda x: jnp.zeros((x.shape[0], length, *x.shape[2:]), x.dtype), memory
        )

    def advance(
        self, tokens: Tokens, memory: list[Pair], cache: list[Pair], position: Int[Array, ""] | int
    ) -> tuple[Logits, list[Pair]]:
        """Logits of a stretch of tokens that begins at `position`, and the cache after it.

        Args:
          cache: what earlier calls returned, or `empty_cache`.
        """
        steps = tokens.shape[1]
        table = jnp.asarray(sinusoid_positions(cache[0][0].shape[1], self.width))
        places = jax.lax.dynamic_slice_in_dim(table, position, steps)
        # Scaled so that the entries of both are of the order of one.
        x, places = promote_dtype(self.embedding[tokens] * self.width**0.5, places[None])
        x = (x + places).astype(self.dtype or x.dtype)
        after = []
        for block, frames, old in zip(self.blocks, memory, cache, strict=True):
            x, new = block(x, frames, old, position)
            after.append(new)
        return self.generator(self.norm(x)), after
