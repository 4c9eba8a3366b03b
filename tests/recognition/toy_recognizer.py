"""A tiny recogniser that has learnt nothing, with all that its description has to say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.configs.evaluate import common
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.recognition.encoders import random_encoder
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.runtime.config_files import config_to_jsonable

# Noise that a scaled-up decoder tells apart.
NOISE = list(np.random.default_rng(0).integers(0, 256, (6, 32, 128, 3)).astype(np.uint8))


def toy_recognizer(
    name: str = "linear", characters: str = Charset.preset(36).characters, scale: float = 1.0
) -> Recognizer:
    config = common.get_config()
    config.model.encoder, config.model.image_width = "vit", 128
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    section = config_to_jsonable(config.model)
    encoder = random_encoder(section, seed=0)
    head = make_head(name, Charset(characters), hidden=8, depth=1, max_length=25)
    params = jax.jit(head.init)(jax.random.key(0), jnp.zeros((2, *encoder.frames_shape())))
    params = jax.tree.map(lambda x: scale * x if x.ndim > 1 else x, params)
    counts = ("unlabelled", "outside_charset", "too_long", "unreadable", "available", "trained_on")
    train = {"source": ["lmdb:/somewhere/words"], "labels_asked": 0.0}
    train["labels"] = dict.fromkeys(counts, 7)
    description = {
        "encoder": encoder.origin,
        "protocol": "frozen",
        "initialisation": "random_init",
        "seed": 3,
        "steps": 1,
        "train": train | {"steps": 2, "batch_size": 1},
        "run": {"seed": 3},
    }
    return Recognizer(encoder, head, params, description, batch_size=4)
