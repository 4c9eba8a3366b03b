"""Every field of an evaluation run, with its default and its meaning.

Not meant to be run by itself: the other files of this folder start from it. Any field can be
overridden on the command line, `--config.train.labels=4000`.
"""

from __future__ import annotations

from ml_collections import ConfigDict, config_dict

from rcmstr_jax.configs.pretrain import common as pretrain


def get_config() -> ConfigDict:
    """A frozen encoder with a CTC decoder, 94 characters, all labels."""
    config = ConfigDict()
    # Decides the decoder's initialisation, the label subset and the order of the words. An encoder
    # at random initialisation takes the seed of the pretraining that it stands beside, where given.
    config.seed = 0
    # "frozen": the encoder in inference mode with its own running statistics, only the decoder
    # learns. "finetune": everything learns. "score": nothing does, a trained recogniser is scored.
    config.protocol = "frozen"
    # "online" or "momentum": which branch of the pretraining run is evaluated.
    config.branch = "online"
    # What is scored: a folder below which every LMDB is a set, folder:PATH or tfds:NAME. Nothing of
    # it may be trained on.
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
    # Several runs in one command, each in a folder of its own below --workdir, and a table of their
    # means and deviations: one per seed (empty: `seed` alone), per share or number of labels
    # (empty: `train.labels` alone), and with `random_beside` each again from the encoder as
    # pretraining started from it.
    config.seeds = ()
    config.label_shares = ()
    config.random_beside = True

    config.decoder = ConfigDict()
    # "ctc", "attention", "transformer", "linear": one linear map under the CTC loss, or
    # "plain_attention": that of published TPS-ResNet-BiLSTM-Attn recognisers. Where --pretrained is
    # a recogniser, its decoder is continued: name, hidden and depth must be its own, or name is
    # "continued", which takes all three from it.
    config.decoder.name = "ctc"
    # True: a new decoder, as described here, on the encoder of that recogniser.
    config.decoder.fresh = False
    config.decoder.hidden = 256
    config.decoder.depth = 6  # blocks of a transformer
    # Words that a transformer's search follows at a time (1: greedy; 0: as the recogniser that is
    # scored or continued).
    config.decoder.beams = 1
    # "36" (digits, lower case), "62" (and upper case), "94" (and punctuation), "68" (digits, lower
    # case and punctuation: case is folded, punctuation is read), or a text file that
    # holds the characters; "continued": that of the recogniser. With another one, a recogniser
    # keeps what it knows of the characters that both have.
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
    # Seed of these subsets; none: the run's own. One number gives all seeds the same words.
    config.train.subset_seed = config_dict.placeholder(int)
    # So many records of the sources are kept back for validation (0: none). The weights that read
    # them best are kept, and training ends after `patience` validations without a better one (0:
    # never).
    config.train.validation = 0
    # Other sources to keep them of, none of which is trained on; empty: the sources above.
    config.train.validation_source = ()
    config.train.validate_every = 500  # steps
    config.train.patience = 0
    # Length: in steps, or in passes over the words that are trained on; the other is 0.
    config.train.steps = 10_000
    config.train.passes = 0.0
    config.train.batch_size = 256
    config.train.learning_rate = 5e-4  # peak of the one-cycle schedule, Adam
    config.train.warmup_share = 0.3  # share of the steps in which the rate rises
    config.train.clip = 5.0  # largest global norm of the gradient (0: no limit)
    # Steps in which the decoder learns alone, on frozen frames, before both do ("finetune").
    config.train.probe_steps = 0
    # Learning rate of the encoder relative to the decoder's ("finetune").
    config.train.encoder_multiplier = 1.0
    # Learning rate of each layer of the encoder relative to that of the layer above ("finetune").
    config.train.layer_decay = 1.0
    config.train.weight_decay = 0.0  # of kernels, apart from the gradient
    # Moving average of weights and statistics, which is what reads in the end: share of the old
    # value in each step (0: no average).
    config.train.average = 0.0
    # ViT that learns: largest share of words for which a block is left out (drop path), that of the
    # last one; it grows from 0 in the first.
    config.train.drop_path = 0.0
    # Light augmentation of the images with at most so many operations; 0 for none. In front of a
    # frozen encoder words are then read, decoded and encoded again for every step.
    config.train.view_ops = 0
    # Frames in memory: "float32", "bfloat16" or "float16" ("frozen").
    config.train.feature_dtype = "float32"
    # Words are held in memory, as frames ("frozen") or as images, if they fit into so many GiB
    # (on CPU with a copy for every device, which are all of the host's memory);
    # otherwise they are read, decoded and encoded again for every step.
    config.train.memory_gib = 8.0
    # Steps inside one compiled call; 1 where the encoder learns: compiled loops run convolutions
    # several times slower on CPU than single steps.
    config.train.steps_per_call = 10
    # Parts in which a device goes through its share of a batch, one after the other.
    config.train.accumulation = 1
    # Steps in a row without a finite loss and gradient (they are skipped) that training survives.
    config.train.max_skipped = 10
    config.train.log_every = 100
    # An interrupted training goes on from its newest checkpoint (0: only when asked to stop).
    config.train.checkpoint_every = 1000

    # The encoder of --pretrained=random; with a pretrained one, its own description is read.
    config.model = pretrain.get_config().model
    return config


def get_dense_config(task: str) -> ConfigDict:
    """The same for a task whose answer is a picture: a frozen encoder, 2,000 labelled images.

    Fields that it shares mean what they mean above.

    Args:
      task: "segmentation" or "super_resolution".
    """
    config = get_config()
    for name in ("decoder", "policy", "workers", "benchmarks"):
        del config[name]
    for name in (
        *("weights", "validation", "validation_source", "validate_every", "patience", "passes"),
        *("probe_steps", "view_ops", "feature_dtype", "drop_path"),
    ):
        del config.train[name]
    config.task = task
    # Words with an answer for every pixel: "rendered:SEED:NUM[:PRESET[:train|test]]" (the parts
    # share no word, font or photograph); for segmentation "textseg:FOLDER[:SPLIT]"; for
    # super-resolution "textzoom:FOLDER", or "crops:PATH[,PATH]", LMDBs of real crops, damaged here.
    config.train.source = ("rendered:0:2000:medium:train",)
    config.benchmarks = ("rendered:1:500:medium:test",)
    # Reads words before and after super-resolution: a name or folder as --pretrained; "" for none.
    config.recognizer = ""
    config.head = ConfigDict()
    # Channels of the head (0: 384 for a ViT's segmentation, else 64), a multiple of 2.
    config.head.width = 0
    # Blocks of the head (0: 3 for a ViT's segmentation, 4 for super-resolution).
    config.head.depth = 0
    config.eval_batch_size = 64
    config.train.labels = 2000.0
    config.train.steps = 10_000
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3
    config.train.warmup_share = 0.1
    config.train.steps_per_call = 1
    return config


def use_dense_variant(config: ConfigDict, variant: str | None, *published: str) -> ConfigDict:
    """Applies "full", "mini", "published" or "test" to such a config, in place.

    Args:
      config: of a dense task.
      variant: None for "full".
      *published: words that "published" trains on, then those that it is scored on.

    Raises:
      ValueError: naming the closest known variant.
    """
    variant = pretrain.pick_variant(variant, ("full", "mini", "published", "test"), "full")
    if variant == "published":
        config.train.source, config.benchmarks = published[:1], published[1:]
        config.train.labels = 1.0
    if variant == "mini":
        config.train.steps = 600
        config.train.batch_size = 32
        config.train.log_every = 50
        config.train.checkpoint_every = 200
    if variant == "test":
        config.random_beside = False
        config.eval_batch_size = 8
        config.train.source = ("rendered:0:16:easy:train",)
        config.benchmarks = ("rendered:1:8:easy:test",)
        config.train.labels = 12.0
        config.train.steps = 3
        config.train.batch_size = 8
        config.train.log_every = 2
        config.head.width = 8
        config.model.width = 16
        config.model.blocks = (1, 1, 1, 1)
    return config


def use_published(config: ConfigDict) -> ConfigDict:
    """The budget of the ancestor's probe (method section 8), in place: 51.2 million words."""
    config.train.steps = 200_000
    config.train.batch_size = 256
    config.train.view_ops = 5
    # The encoder runs in every step: compiled loops run its convolutions slower on CPU.
    config.train.steps_per_call = 1
    return config


def use_variant(config: ConfigDict, variant: str | None, *others: str) -> ConfigDict:
    """Applies the part after the colon of `--config=FILE.py:variant`, in place.

    Args:
      config: of a protocol.
      variant: None for "full".
      *others: variants that the file has beside "full", "mini" and "test".

    Raises:
      ValueError: naming the closest known variant.
    """
    variant = pretrain.pick_variant(variant, ("full", "mini", "test", *others), "full")
    if variant == "published":
        return use_published(config)
    if variant != "full":  # a length of its own, in steps
        config.train.passes = 0.0
    if variant == "mini":
        # The quickstart runs both initialisations by itself, so that each is a phase of its own.
        config.random_beside = False
        config.decoder.hidden = 64
        config.decoder.charset = "36"
        config.train.batch_size = 64
        config.train.learning_rate = 2e-3
        config.train.log_every = 100
    if variant == "test":
        config.random_beside = False
        config.eval_batch_size = 16
        config.decoder.hidden = 16
        config.decoder.depth = 1
        config.train.labels = 32.0
        config.train.steps = 3
        config.train.batch_size = 8
        config.train.steps_per_call = 2
        config.train.validate_every = 2
        config.train.log_every = 2
        config.model.width = 16
        config.model.blocks = (1, 1, 1, 1)
    return config
