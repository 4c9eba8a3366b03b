"""A dense task of a tiny vision transformer, which has no batch statistics, on drawn words."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rcmstr_jax.configs.evaluate import segmentation, super_resolution
from rcmstr_jax.data.dense.words import DenseArrays, DenseWord
from rcmstr_jax.dense.fitting import DenseTask
from rcmstr_jax.dense.heads import make_head
from rcmstr_jax.recognition.encoders import random_encoder
from rcmstr_jax.training.dense_plan import DensePlan, dense_plan
from rcmstr_jax.training.loop import Session

CONFIGS = {"segmentation": segmentation, "super_resolution": super_resolution}
WIDTH = 48


def toy_plan(task: str, *, frozen: bool = False, **train: Any) -> DensePlan:
    config = CONFIGS[task].get_config("test")
    config.compilation_cache, config.protocol = "off", "frozen" if frozen else "finetune"
    config.head.width, config.head.depth = 8, 1
    config.model.encoder, config.model.image_width = "vit", WIDTH
    config.model.width, config.model.depth, config.model.heads = 8, 1, 1
    config.train.update(steps=6, batch_size=8, learning_rate=0.01, log_every=2)
    config.train.update(train)
    return dense_plan(config, devices=jax.device_count())


class ToyWords(list):
    """Words that were drawn: dark strokes on noise."""

    name = "toy"


def toy_words(task: str, number: int = 12) -> ToyWords:
    rng, words = np.random.default_rng(0), ToyWords()
    for place in range(number):
        target = np.zeros((32, WIDTH if task == "segmentation" else 128), np.uint8)
        target[8:24, 4 + place : 10 + place] = 1
        picture = rng.integers(150, 256, (*target.shape, 3)).astype(np.uint8)
        picture[target == 1] = 20
        if task == "segmentation":
            words.append(DenseWord(picture, target, "i"))
        else:
            words.append(DenseWord(picture[::2, ::2], picture, "i"))
    return words


def toy_arrays(task: str) -> DenseArrays:
    words = toy_words(task)
    return DenseArrays(
        np.stack([word.image for word in words]),
        np.stack([word.target for word in words]),
        tuple(word.label for word in words),
        np.arange(len(words)),
    )


def toy_task(plan: DensePlan, session: Session) -> DenseTask:
    encoder = random_encoder(plan.config["model"], plan.seed)
    head = make_head(plan.task, encoder, **vars(plan.head))
    source: Any = toy_words(plan.task)
    return DenseTask(plan, session, encoder, head, True, {"name": "toy"}, source)
