"""What a pretrained network has learnt of words, as arrays: nothing here knows HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from rcmstr_jax.data.cache import DecodedCache
from rcmstr_jax.data.records import RecordSource
from rcmstr_jax.recognition.words import Subset
from rcmstr_jax.runtime.parallel import whole_batches
from rcmstr_jax.runtime.weights import read_weights
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from rcmstr_jax.training.step_inputs import images_to_float

BATCH = 64


@dataclasses.dataclass(frozen=True)
class Words:
    """Decoded words.

    Attributes:
      images: pixels.
      texts: labels, "" where there is none.
      name: where they come from.
      faults: how many records could not be used.
    """

    images: UInt8[np.ndarray, "words height width 3"]
    texts: list[str]
    name: str
    faults: int


def load_words(source: RecordSource, size: tuple[int, int], count: int, seed: int = 0) -> Words:
    """Up to `count` words of a source; of a longer one, some drawn by seed.

    Raises:
      ValueError: none of them can be used.
    """
    chosen = list(range(min(len(source), count)))
    if len(source) > count:
        drawn = np.random.default_rng(seed).integers(0, len(source), 2 * count)
        chosen = list(dict.fromkeys(drawn.tolist()))[:count]
    cache = DecodedCache.build(Subset(source, chosen), size)
    usable = np.flatnonzero(cache.valid)
    texts = [cache.texts[i] or "" for i in usable]
    return Words(cache.images[usable], texts, source.name, len(chosen) - len(usable))


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """What the online branch makes of words, in inference mode.

    Attributes:
      plan: of the run.
      variables: of the network.
      words: the words.
      frames: encoder output.
      levels: vectors of each hierarchy that the run contrasts, of length 1.
    """

    plan: PretrainPlan
    variables: dict[str, Any]
    words: Words
    frames: Float[np.ndarray, "words frames dim"]
    levels: dict[str, Float[np.ndarray, "words parts dim"]]


def embed(workdir: str | Path, words: Words) -> Embeddings:
    """Encodes words with the newest checkpoint of a pretraining run.

    Raises:
      CheckpointError: no readable checkpoint.
      ValueError: the words have another size than the network's images.
    """
    weights = read_weights(workdir)
    plan, variables = pretrain_plan(weights.config), weights.variables
    if words.images.shape[1:3] != plan.model.image_size:
        raise ValueError(
            f"words of {words.images.shape[1:3]} for images of {plan.model.image_size}"
        )
    model = build_model(plan)

    @jax.jit
    def encode(images: Any) -> Any:
        frames: Any = model.apply(variables, images_to_float(images), method="encode")
        projected = model.apply(variables, frames, method="project_frames")
        return frames, model.apply(variables, projected, method="predict")

    found = [
        jax.tree.map(lambda x: np.asarray(x[:count], np.float32), encode(batch))  # noqa: B023
        for batch, count in whole_batches(words.images, BATCH)
    ]
    frames, levels = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    return Embeddings(plan, variables, words, frames, levels)


def unit(vectors: Float[np.ndarray, "... dim"]) -> Float[np.ndarray, "... dim"]:
    """Centred over all vectors, then scaled to length 1."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    centred = vectors - flat.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-9)


def nearest(
    queries: Float[np.ndarray, "queries dim"],
    pool: Float[np.ndarray, "pool dim"],
    count: int,
    forbidden: Sequence[Sequence[int]],
) -> tuple[Int[np.ndarray, "queries count"], Float[np.ndarray, "queries count"]]:
    """Places and similarities of the nearest vectors of a pool; `forbidden` places are left out.

    All vectors have length 1; ties go to the lower place.
    """
    similarity = queries @ pool.T
    for row, places in zip(similarity, forbidden, strict=True):
        row[list(places)] = -np.inf
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return best, np.take_along_axis(similarity, best, axis=1)


def frame_of(character: int, length: int, frames: int) -> int:
    """The frame at the centre of a character, all characters taken to be equally wide."""
    return min(int((character + 0.5) / length * frames), frames - 1)


def principal_plane(
    vectors: Float[np.ndarray, "points dim"],
) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, " 2"]]:
    """The two principal components of the points, and the share of the variance of each."""
    centred = vectors - vectors.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    shares = singular**2 / np.sum(singular**2)
    return left[:, :2] * singular[:2], shares[:2]


def relations(
    embeddings: Embeddings, word: int, frame: int, others: Sequence[int]
) -> Float[np.ndarray, "words parts"]:
    """Similarity of one frame with the sub-words of its own word (first row) and of others."""
    query = embeddings.levels["frame"][word, frame]
    return embeddings.levels["subword"][[word, *others]] @ query


def holding_part(frame: int, frames: int, parts: int) -> int:
    """The sub-word that holds a frame: windows of stride `frames // parts` (method section 4)."""
    return min(frame // (frames // parts), parts - 1)


def relation_means(embeddings: Embeddings) -> dict[str, float]:
    """Mean similarity of frames with their own sub-word, the word's others, and other words'.

    The other word is the next one in order.
    """
    frames, parts = embeddings.levels["frame"], embeddings.levels["subword"]
    count, number = frames.shape[1], parts.shape[1]
    own = np.einsum("wfd,wpd->wfp", frames, parts)
    other = np.einsum("wfd,wpd->wfp", frames, np.roll(parts, -1, axis=0))
    holds = np.zeros((count, number), bool)
    holds[np.arange(count), [holding_part(f, count, number) for f in range(count)]] = True
    return {
        "its own sub-word": float(own[:, holds].mean()),
        "other sub-words of its word": float(own[:, ~holds].mean()),
        "sub-words of another word": float(other.mean()),
    }
