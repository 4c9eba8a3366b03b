"""A decoder that knows the encoder's frames before the two are fine-tuned together.

A fresh decoder sends arbitrary gradients into the encoder, which undo what pretraining taught it.
Linear probing, then fine-tuning (LP-FT; Kumar et al., ICLR 2022, arXiv 2202.10054) trains the
decoder alone first. It costs little: the frames are computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from rcmstr_jax.recognition import feeds
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.features import calibrate_statistics, extract_features
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.training import recognition_step as rs

Tree = Any


def probe_decoder(
    config: ConfigDict,
    encoder: Encoder,
    head: DecoderHead,
    images: UInt8[np.ndarray, "words height width 3"],
    texts: list[str],
    *,
    is_random: bool,
    log: Callable[[str], None],
) -> Tree:
    """Trains the decoder for `train.probe_steps` on the frames of the encoder as it comes.

    Args:
      config: an evaluation config; batch size, peak rate and clipping are those of fine-tuning.
      encoder: stays as it is.
      head: the decoder.
      images: training images.
      texts: their labels.
      is_random: an untrained encoder's statistics are calibrated first, as in the frozen protocol.
      log: takes a line.

    Returns:
      The decoder's parameters.

    Raises:
      FloatingPointError: the loss is no longer a finite number.
    """
    if is_random and config.calibrate_random_statistics:
        encoder = calibrate_statistics(
            encoder, images, batch_size=config.eval_batch_size, seed=config.seed
        )
    probe = ConfigDict(config.to_dict())
    train = probe.train
    # Compiled loops suit a decoder on every platform; the encoder's convolutions are not in them.
    train.steps, train.steps_per_call = train.probe_steps, min(10, train.probe_steps)
    frames = extract_features(encoder, images, batch_size=config.eval_batch_size)
    optimizer, _ = rs.recognition_optimizer(
        train.steps,
        learning_rate=train.learning_rate,
        clip=train.clip,
        warmup_share=train.warmup_share,
    )
    state = rs.create_state(jax.random.key(config.seed), head, frames.shape[1:], optimizer)
    chunk = rs.make_chunk(rs.make_step(head, optimizer))
    values: dict[str, Any] = {}
    active = np.zeros(0, bool)
    memory = {"inputs": frames, **head.targets(texts)}
    for on_device, rows, active in feeds.memory_feed(memory, probe, 0):
        state, values = chunk(state, on_device, rows, active)
    loss = float(np.asarray(values["loss"])[active].mean())
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"the loss is not finite after train.probe_steps={train.steps} steps of the decoder"
            f" alone: lower train.learning_rate={train.learning_rate}"
        )
    log(f"decoder alone: {train.steps} steps on frozen frames, loss {loss:.4f}")
    return state.params["decoder"]
