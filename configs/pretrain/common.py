"""Every field of a pretraining run, with its default and its meaning.

Not meant to be run by itself: `rcmstr_cnn.py`, `rcmstr_vit.py`, `ablation.py` and `mini.py` start
from it. Any field can be overridden on the command line, `--config.mim.mask_ratio=0.6`; tuples by
repeating the flag (`--config.data.source=lmdb:A --config.data.source=synthetic`) or as one quoted
literal (`--config.contrast.pairs="('frame_subword',)"`).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rcmstr_jax.augment.colour import ColourJitter
from rcmstr_jax.augment.views import ViewRanges
from rcmstr_jax.data.synthetic.options import RenderOptions


def get_config() -> ConfigDict:
    """The full method on the CNN encoder, with data rendered on the fly."""
    config = ConfigDict()
    # One integer decides initialisation, order of the data, views, permutations and masks.
    config.seed = 0
    # Workdir of a pretraining run, or DIR@STEP, or a file of weights, ours or published ones as
    # launch/convert_weights.py reads them, that a fresh run begins with (empty: drawn ones); and
    # patterns of the names whose arrays may differ, as in ("params/predictors/*",).
    config.init_from = ""
    config.init_may_differ = ()
    # Length of the run, in images: the whole steps of `batch_size` that fit into it.
    config.total_images = 25_600_000
    # Images per step over all devices and hosts. Another size changes the number of steps and, in
    # proportion, the learning rate: warm-up, schedule and moving average run over the same images.
    config.batch_size = 256
    # Parts in which a device goes through its share of a batch, one after the other, where it does
    # not fit as a whole (gradient accumulation). Batch statistics are those of each part, as if it
    # were a device with `key_norm=local`: the ViT, which has none, learns exactly the same.
    config.accumulation = 1
    # Steps between metric lines. Only these steps wait for the devices.
    config.log_every = 50
    # Steps between lines with the norms of the encoder's gradient from each part: contrast within
    # hierarchies, relations within and between them, masked term (0: never). They cost some steps.
    config.log_gradients_every = 0
    # Steps between checkpoints; one more is written at the end and on SIGINT or SIGTERM.
    config.checkpoint_every = 1000
    # Newest checkpoints to keep, and in addition every step that this number divides (0: none).
    config.keep_checkpoints = 3
    config.keep_period = 0
    # Steps between pictures in the workdir (0: only at the end; -1: never), and between lines with
    # `shortcut/colour`: how often colour statistics alone find the other view of an image.
    config.picture_every = 5000
    # Steps in a row without a finite loss and gradient (they are skipped) that the run survives.
    config.max_skipped = 10
    # Where compiled programs are kept between runs: "auto" is $JAX_COMPILATION_CACHE_DIR, else
    # $XDG_CACHE_HOME/rcmstr_jax (or ~/.cache/rcmstr_jax), "off" leaves it to JAX, anything else is
    # a folder.
    config.compilation_cache = "auto"

    config.data = ConfigDict()
    # One or several of "lmdb:PATH", "folder:PATH", "tfds:NAME[:split][@data_dir]",
    # "synthetic[:seed]". Several are mixed by `weights`.
    config.data.source = ("synthetic",)
    # Share of each source in a mixture; empty: finite sources count by their sizes. Rendered words
    # never end: beside other sources they need weights.
    config.data.weights = ()
    # Keep decoded images in memory: right for small finite sources that are passed many times.
    config.data.cache = False
    # Look of rendered words: every field of rcmstr_jax/data/synthetic/options.py.
    config.data.synthetic = synthetic_options("medium")
    # Worker processes that decode images (0: threads of this process). How many pay on a host:
    # launch/benchmark.py --what=pipeline.
    config.data.workers = min(8, os.cpu_count() or 1)
    # Batches that are moved to the device ahead of their use.
    config.data.prefetch = 2

    config.model = ConfigDict()
    config.model.encoder = "cnn"  # "cnn", "compact" or "vit"
    # Output width. CNN: 512 as published, every layer scales with it. ViT: 0 takes it from `size`.
    # Compact encoder: 192.
    config.model.width = 512
    # Residual blocks per stage: four stages of the CNN, three of the compact encoder.
    config.model.blocks = (1, 2, 5, 3)
    # Compact encoder only: transformer blocks over the frames; their heads are `heads`, 0: four.
    config.model.attention = 2
    # ViT only: "tiny" 192/12/3, "small" 384/12/6, "base" 512/12/8 (width/depth/heads); depth and
    # heads other than 0 override it.
    config.model.size = "tiny"
    config.model.depth = 0
    config.model.heads = 0
    # Pixels; the height is 32. CNN and compact encoder 100 (26 frames), ViT 128 (32 frames).
    config.model.image_width = 100
    # Frozen thin-plate-spline rectifier in front of the CNN.
    config.model.rectifier = False
    # Workdir whose rectifier is taken, as launch/convert_weights.py writes one; empty: fiducial
    # points evenly spread, which leaves images nearly as they are.
    config.model.rectifier_from = ""
    # True: images are rectified before they exchange blocks; False: after it, as in the ancestor.
    config.model.rectify_first = False
    config.model.projector = "bilstm"  # "bilstm" or "mlp"
    config.model.projector_hidden = 256
    # Length of the contrasted vectors.
    config.model.predict_dim = 128
    # Compute type, "float32" or "bfloat16". Parameters, statistics and losses are float32.
    config.model.dtype = "float32"
    # How exactly float32 products of the network are made: "default" is TF32 on NVIDIA GPUs since
    # Ampere and one pass of bfloat16 on TPUs, "highest" is float32, "high" lies between (TPU: three
    # passes). "auto" is JAX's own setting ($JAX_DEFAULT_MATMUL_PRECISION), else "default".
    config.model.precision = "auto"
    # What the encoder keeps for the backward pass. "none": everything; "blocks": the input of each
    # block, whose insides are computed again; "full": of each pass the images alone (two more
    # forward computations).
    config.model.remat = "none"

    config.views = ConfigDict()
    # False: both views are the image itself (for debugging).
    config.views.enabled = True
    # Each view applies `min_ops` to `max_ops` operations.
    config.views.min_ops = 1
    config.views.max_ops = 5
    # The same for warps; "auto" is "highest", unless JAX's own setting is another.
    config.views.precision = "auto"
    # Strengths of the operations: every field of `ViewRanges` in rcmstr_jax/augment/views.py.
    config.views.ranges = ConfigDict(dataclasses.asdict(ViewRanges()))
    # True: the colours of each view change too (not in the paper), as `colour` says: every field of
    # `ColourJitter` in rcmstr_jax/augment/colour.py.
    config.views.colours = False
    config.views.colour = ConfigDict(dataclasses.asdict(ColourJitter()))

    config.rearrange = ConfigDict()
    config.rearrange.enabled = True
    config.rearrange.group = 2  # G images exchange blocks
    config.rearrange.blocks = 2  # P blocks per image; divides the frames and the image width
    # True: one permutation per batch as in the ancestor; False: one per group.
    config.rearrange.shared_permutation = False

    config.contrast = ConfigDict()
    # Which of "frame", "subword", "word" are contrasted within themselves.
    config.contrast.hierarchies = ("frame", "subword", "word")
    # Which of "frame_subword", "subword_word", "frame_word" are related to each other.
    config.contrast.pairs = ("frame_subword", "subword_word")
    config.contrast.subwords = 4
    # Keys per queue; rounded down to a multiple of the keys that one global step adds.
    config.contrast.queue_size = 65_536
    # Frames of an image, drawn anew for each, whose keys enter the queue (0: all): a ViT's step of
    # 4,096 images would fill it twice over.
    config.contrast.frame_keys = 0
    config.contrast.temperature = 0.07
    config.contrast.relation_temperature = 0.04
    # Weight of every relation term; `relation=False` leaves them out.
    config.contrast.alpha = 0.3
    config.contrast.relation = True
    # Weight of the contrast between hierarchies.
    config.contrast.beta = 0.0
    # "batchmean" sums the KL over the queue, "mean" averages over it as the ancestor's code does.
    config.contrast.kl_reduction = "batchmean"
    # Queue entries handled at a time by the streamed loss: memory against speed, the result is the
    # same. 0: what is fast here, 256 on CPU and 512 on TPU (logits stay on the chip), else 2048.
    config.contrast.chunk = 0
    # The same as `model.precision` for products with the queue, where the network is float32 (else
    # they are bfloat16 too); "auto" is "high" on TPUs.
    config.contrast.precision = "auto"

    config.mim = ConfigDict()
    config.mim.enabled = True
    config.mim.weight = 1.0
    config.mim.mask_ratio = 0.7
    config.mim.block_ratio = 0.15
    config.mim.kind = "patch_block"  # "patch_block", "patch" or "block"
    # True: the query view itself is masked (ablation); False: a forward pass of its own.
    config.mim.coupled = False
    # Not for the ViT. Sparse: "masked_dense", "packed" or "auto" (the one measured faster for the
    # CNN), the same numbers. "dense" (ablation): hidden patches are grey and every layer computes
    # everywhere.
    config.mim.form = "auto"
    # What is predicted of hidden patches: their "pixels", or (not in the paper) what the "momentum"
    # branch, which sees the whole query view, finds there: its encoder's features, of a
    # convolutional one those of the patch's column. One more forward pass; no pictures.
    config.mim.target = "pixels"
    # Targets normalised by each patch's own mean and deviation; features of each place likewise.
    config.mim.normalize_targets = True

    config.momentum = ConfigDict()
    # Share of the old parameters that is left of the average after `reference_batch` images (0:
    # after every step): a batch of 256 has 0.999 ** (256 / 32) a step, the same horizon in images.
    config.momentum.value = 0.999
    config.momentum.reference_batch = 32
    # Set: the momentum rises to this value along a cosine.
    config.momentum.final = placeholder(float)
    # How batch statistics of the momentum branch are kept from leaking identity between devices:
    # "shuffle" images over devices, "sync" the statistics, or leave them "local".
    config.key_norm = "shuffle"
    # "shuffle" where devices are few: a device encodes its keys in so many groups of the dealt
    # images, each normalised by itself, as if it were as many devices.
    config.key_groups = 1

    # ViT only: largest share of images for which a block is left out (drop path), that of the last
    # one; it grows from 0 in the first. The momentum branch drops nothing.
    config.drop_path = 0.0

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # "sgd" or "adamw"
    # Learning rate at a global batch of `reference_batch` (0: at any batch); scales linearly.
    config.optimizer.learning_rate = 0.0015
    config.optimizer.reference_batch = 32
    config.optimizer.momentum = 0.9  # sgd
    config.optimizer.b1 = 0.9  # adamw
    config.optimizer.b2 = 0.999  # adamw
    # sgd: added to the gradient; adamw: decoupled.
    config.optimizer.weight_decay = 1e-4
    # False: biases, normalisation and other vectors are not decayed.
    config.optimizer.decay_vectors = True
    config.optimizer.schedule = "cosine"  # "cosine", "step" or "constant"
    # "step": the rate falls to a tenth at these shares of the run.
    config.optimizer.milestones = (0.6, 0.8)
    # Images in which the rate rises linearly, rounded to whole steps.
    config.optimizer.warmup_images = 0
    # Largest global norm of the gradient (0: no limit).
    config.optimizer.clip = 0.0
    return config


def synthetic_options(difficulty: str, **changes: Any) -> ConfigDict:
    """Options of the word renderer: a difficulty of `render_words.py`, with some fields changed."""
    return ConfigDict(dataclasses.asdict(RenderOptions.preset(difficulty, **changes)))


def use_vit(config: ConfigDict, size: str = "tiny") -> ConfigDict:
    """Turns the encoder into a ViT with the recipe of method section 7, in place."""
    config.model.encoder = "vit"
    config.model.size = size
    config.model.width = 0
    config.model.image_width = 128
    config.model.projector = "mlp"
    # It has no batch statistics: to deal the images anew would move bytes and change nothing.
    config.key_norm = "local"
    config.momentum.value = 0.99
    config.momentum.reference_batch = 1024
    config.momentum.final = 1.0
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.reference_batch = 1024
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay_vectors = False
    config.optimizer.warmup_images = 5_120_000
    config.optimizer.clip = 3.0
    return config


def pick_variant(variant: str | None, known: tuple[str, ...], default: str) -> str:
    """Checks the part after the colon of `--config=FILE.py:variant`.

    Raises:
      ValueError: naming the closest known variant.
    """
    variant = variant or default
    if variant not in known:
        close = difflib.get_close_matches(variant, known, 1, 0.0)[0]
        raise ValueError(
            f"config variant {variant!r} is unknown: did you mean {close!r}? "
            f"Known are {', '.join(known)}"
        )
    return variant
