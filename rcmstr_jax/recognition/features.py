"""Images into frames by a frozen encoder, whose statistics have been kept right."""

from __future__ import annotations

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num, UInt8

from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.runtime import parallel
from rcmstr_jax.training.plan import EvaluationPlan, LabelledPlan

# Training-mode passes for the statistics of a random encoder, which move by a tenth in each:
# 0.9 ** 50 = 0.5 % of the old is left.
PASSES = 50

logger = logging.getLogger(__name__)


def calibrate_statistics(
    encoder: Encoder,
    images: Num[np.ndarray, "words height width channels"],
    plan: LabelledPlan,
) -> Encoder:
    """Gives an untrained encoder running statistics that fit its data.

    A fresh network holds mean 0 and variance 1, so that in inference mode its features shrink or
    grow from layer to layer, whereas a pretrained one is normalised properly: the comparison would
    be won by normalisation, not by what was learnt. So the random encoder sees the training images,
    without labels, for some forward passes in training mode; its parameters stay as they are.

    A network without batch statistics is returned unchanged. The plan's seed decides which of the
    training images enter, its `eval_batch_size` how many a pass sees at most; they are uint8 or in
    [-1, 1].
    """
    if not jax.tree.leaves(encoder.batch_stats):
        return encoder
    rng = np.random.default_rng((plan.seed, PASSES))
    size = min(plan.eval_batch_size, len(images))
    update = jax.jit(lambda stats, batch: encoder.train(encoder.params, stats, batch)[1])
    stats = encoder.batch_stats
    for _ in range(PASSES):
        rows = np.sort(rng.choice(len(images), size, replace=False))
        stats = update(stats, images[rows])
    origin = {**encoder.origin, "statistics": f"calibrated on {PASSES} batches of {size} images"}
    return dataclasses.replace(encoder, batch_stats=stats, origin=origin)


def extract_features(
    encoder: Encoder,
    images: UInt8[np.ndarray, "words height width channels"],
    plan: EvaluationPlan,
) -> np.ndarray:
    """Frames (N, T, D) of all images in inference mode, on the host, in `train.feature_dtype`.

    All devices of all hosts work on every batch; the last one is filled up with its last image, so
    that one compilation serves all.
    """
    frames, width = encoder.frames_shape()
    size = min(plan.eval_batch_size, len(images))
    features = np.empty((len(images), frames, width), jnp.dtype(plan.train.feature_dtype))
    infer = parallel.map_rows(lambda weights, rows: encoder.infer(weights[0], weights[1], rows))(
        (encoder.params, encoder.batch_stats)
    )
    done = 0
    for number, (batch, count) in enumerate(parallel.whole_batches(images, size)):
        features[done : done + count] = infer(batch)[:count].astype(features.dtype)
        done += count
        if done == len(images) or number % 50 == 49:
            logger.info("features: %d of %d words", done, len(images))
    return features
