"""Where decoders look: for every character the weights over the frames, which sum to one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rcmstr_jax.recognition.heads import Reading
from rcmstr_jax.recognition.recognizer import Recognizer

# Decoders that say where in the image each character was read from.
ATTENDING = ("attention", "plain_attention", "transformer")


def read_and_attend(
    recognizer: Recognizer, weights: Any, images: Any
) -> tuple[Reading, Float[Array, "batch steps frames"]]:
    """What is read of uint8 images (B, 32, W, 3) and where from; to be compiled.

    Args:
      recognizer: with one of the decoders in `ATTENDING`; of a transformer the weights are the mean
        over its blocks and heads.
      weights: `recognizer.weights`.
    """
    encoder, head = recognizer.encoder, recognizer.head
    frames = encoder.infer(weights[0], weights[1], images).astype(jnp.float32)
    reading = head.read(weights[2], frames)
    # Fed with what was read, a decoder looks where it looked when it read; also in a search.
    given = jnp.roll(reading.tokens, 1, axis=1).at[:, 0].set(head.charset.sos_token)
    variables = {"params": weights[2]}
    _, seen = head.module.apply(variables, frames, given, mutable=["intermediates"])
    found = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(seen["intermediates"])]
    return reading, jnp.mean(jnp.stack(found), axis=0)
