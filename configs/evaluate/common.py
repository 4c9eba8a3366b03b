"""Every field of an evaluation run, with its default and its meaning.

Not meant to be run by itself: `frozen_ctc.py`, `frozen_attention.py` and `finetune_ctc.py` start
from it. Any field can be overridden on the command line, `--config.train.labels=4000`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.pretrain import common as pretrain


def get_config() -> ConfigDict:
    """A frozen encoder with a CTC decoder, 94 characters, all labels."""
    config = ConfigDict()
    # Decides the decoder's initialisation, the label subset and the order of the words. An encoder
    # at random initialisation takes the seed of the pretraining that it stands beside, where given.
    config.seed = 0
    # "frozen": the encoder in inference mode with its own running statistics, only the decoder
    # learns. "finetune": everything learns.
    config.protocol = "frozen"
    # "online" or "momentum": which branch of the pretraining run is evaluated.
    config.branch = "online"
    # Folder below which every LMDB is scored. Nothing below it may be trained on.
    config.benchmarks = "data/benchmark"
    # What is compared. "alphanumeric": case-insensitive, letters and digits only; "case_sensitive":
    # letters and digits only; "symbols": everything. The report holds all three, this one first.
    config.policy = "alphanumeric"
    # Worker processes that decode images (0: threads of this process).
    config.workers = 0
    # Images per call while frames are extracted and words are read.
    config.eval_batch_size = 256
    # Where compiled programs are kept between runs, as in pretraining.
    config.compilation_cache = "auto"
    # With --pretrained=random and a frozen encoder: estimate its batch statistics on the training
    # images, so that it is not judged by unscaled features alone.
    config.calibrate_random_statistics = True

    config.decoder = ConfigDict()
    config.decoder.name = "ctc"  # "ctc" or "attention"
    config.decoder.hidden = 256
    # "36" (digits, lower case), "62" (and upper case), "94" (and punctuation), or a text file that
    # holds the characters.
    config.decoder.charset = "94"
    # Longest word that is trained on, in characters.
    config.decoder.max_length = 25

    config.train = ConfigDict()
    # One or several of "lmdb:PATH", "folder:PATH", "tfds:NAME[:split][@data_dir]",
    # "synthetic[:seed]", all of them labelled; they are put one after the other.
    config.train.source = ("lmdb:data/train",)
    # Shares of the sources in an endless mixture (`labels` must be a number then); empty: none.
    config.train.weights = ()
    # How many labels: up to 1 a share of the words, above 1 a number of words. Subsets of one seed
    # are nested: the smaller is the beginning of the larger.
    config.train.labels = 1.0
    config.train.steps = 10_000
    config.train.batch_size = 256
    config.train.learning_rate = 5e-4  # peak of the one-cycle schedule, Adam
    config.train.warmup_share = 0.3  # share of the steps in which the rate rises
    config.train.clip = 5.0  # largest global norm of the gradient (0: no limit)
    # Learning rate of the encoder relative to the decoder's ("finetune").
    config.train.encoder_multiplier = 1.0
    # Light augmentation of the images with at most so many operations; 0 for none ("finetune").
    config.train.view_ops = 0
    # Frames in memory: "float32", "bfloat16" or "float16" ("frozen").
    config.train.feature_dtype = "float32"
    # Words are held in memory, as frames ("frozen") or as images, if they fit into so many GiB;
    # otherwise they are read, decoded and encoded again for every step.
    config.train.memory_gib = 8.0
    # Steps inside one compiled call.
    config.train.steps_per_call = 10
    config.train.log_every = 100

    # The encoder of --pretrained=random; with a pretrained one, its own description is read.
    config.model = pretrain.get_config().model
    return config


def use_variant(config: ConfigDict, variant: str | None) -> ConfigDict:
    """Applies the part after the colon of `--config=FILE.py:variant`, in place.

    Raises:
      ValueError: naming the closest known variant.
    """
    variant = pretrain.pick_variant(variant, ("full", "mini", "test"), "full")
    if variant == "mini":
        config.decoder.hidden = 64
        config.decoder.charset = "36"
        config.train.batch_size = 64
        config.train.learning_rate = 2e-3
        config.train.log_every = 100
    if variant == "test":
        config.eval_batch_size = 16
        config.decoder.hidden = 16
        config.train.labels = 32.0
        config.train.steps = 3
        config.train.batch_size = 8
        config.train.steps_per_call = 2
        config.train.log_every = 2
        config.model.width = 16
        config.model.blocks = (1, 1, 1, 1)
    return config
