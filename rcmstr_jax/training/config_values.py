"""Values that the fields of a pretraining config may have."""

from __future__ import annotations

from typing import Any

CHOICES: dict[str, tuple[Any, ...]] = {
    "model.encoder": ("cnn", "vit"),
    "model.size": ("tiny", "small", "base"),
    "model.projector": ("bilstm", "mlp"),
    "model.dtype": ("float32", "bfloat16"),
    "contrast.kl_reduction": ("batchmean", "mean"),
    "mim.kind": ("patch_block", "patch", "block"),
    "mim.form": ("masked_dense", "packed", "auto", "dense"),
    "key_norm": ("shuffle", "sync", "local"),
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.schedule": ("cosine", "step", "constant"),
}
MEMBERS: dict[str, tuple[str, ...]] = {
    "contrast.hierarchies": ("frame", "subword", "word"),
    "contrast.pairs": ("frame_subword", "subword_word", "frame_word"),
}
# Field -> (lowest, highest) value that makes sense, ends included; None is open.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "total_steps": (1, None),
    "batch_size": (2, None),
    "accumulation": (1, None),
    "log_every": (1, None),
    "checkpoint_every": (1, None),
    "keep_checkpoints": (1, None),
    "keep_period": (0, None),
    "picture_every": (-1, None),
    "max_skipped": (1, None),
    "data.workers": (0, None),
    "data.prefetch": (0, None),
    "model.depth": (0, None),
    "model.heads": (0, None),
    "model.projector_hidden": (1, None),
    "model.predict_dim": (1, None),
    "views.max_ops": (1, 7),
    "rearrange.group": (1, None),
    "rearrange.blocks": (1, None),
    "contrast.subwords": (1, None),
    "contrast.queue_size": (1, None),
    "contrast.chunk": (0, None),
    "contrast.alpha": (0, None),
    "contrast.beta": (0, None),
    "mim.weight": (0, None),
    "mim.block_ratio": (0, 1),
    "momentum.value": (0, 1),
    "optimizer.reference_batch": (0, None),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, None),
    "optimizer.warmup_steps": (0, None),
    "optimizer.clip": (0, None),
}
POSITIVE = (
    "contrast.temperature",
    "contrast.relation_temperature",
    "optimizer.learning_rate",
)
