"""RCMSTR: relational contrastive learning and masked image modelling for scene text recognition.

The public names are imported on first use, so that `import rcmstr_jax` stays quick and touches
neither JAX nor its devices. The README shows a training step made of parts of this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rcmstr_jax.version import __version__

if TYPE_CHECKING:  # for type checkers and editors; the same names as below, which a test compares
    from rcmstr_jax.augment.views import make_view
    from rcmstr_jax.data.charset import Charset
    from rcmstr_jax.data.pipeline import eval_batches, train_batches
    from rcmstr_jax.data.sources import open_source
    from rcmstr_jax.metrics.words import score_words
    from rcmstr_jax.models.bilstm import BiLSTM, BiLSTMProjector
    from rcmstr_jax.models.decoders.attention import AttentionDecoder
    from rcmstr_jax.models.decoders.ctc import CtcDecoder
    from rcmstr_jax.models.decoders.transformer import TransformerDecoder
    from rcmstr_jax.models.hierarchy import MlpProjector, Predictors
    from rcmstr_jax.models.rcmstr import RCMSTR
    from rcmstr_jax.models.resnet import ResNet
    from rcmstr_jax.models.tps import TpsRectifier
    from rcmstr_jax.models.vit import VIT_SIZES, VisionTransformer
    from rcmstr_jax.recognition.recognizer import Recognizer
    from rcmstr_jax.ssl.masking import draw_mask
    from rcmstr_jax.ssl.momentum import ema_update, momentum_schedule
    from rcmstr_jax.ssl.objective import ContrastOptions, contrastive_objective, contrastive_terms
    from rcmstr_jax.ssl.queue import KeyQueue, enqueue, init_queue
    from rcmstr_jax.ssl.rearrange import align_frames, draw_permutation, rearrange_images
    from rcmstr_jax.ssl.reconstruction import patch_targets, reconstruction_loss
    from rcmstr_jax.ssl.relational import relational_terms

# Module, below this package, that holds each public name.
_HOME = {
    "AttentionDecoder": "models.decoders.attention",
    "BiLSTM": "models.bilstm",
    "BiLSTMProjector": "models.bilstm",
    "Charset": "data.charset",
    "ContrastOptions": "ssl.objective",
    "CtcDecoder": "models.decoders.ctc",
    "KeyQueue": "ssl.queue",
    "MlpProjector": "models.hierarchy",
    "Predictors": "models.hierarchy",
    "RCMSTR": "models.rcmstr",
    "Recognizer": "recognition.recognizer",
    "ResNet": "models.resnet",
    "TpsRectifier": "models.tps",
    "TransformerDecoder": "models.decoders.transformer",
    "VIT_SIZES": "models.vit",
    "VisionTransformer": "models.vit",
    "align_frames": "ssl.rearrange",
    "contrastive_objective": "ssl.objective",
    "contrastive_terms": "ssl.objective",
    "draw_mask": "ssl.masking",
    "draw_permutation": "ssl.rearrange",
    "ema_update": "ssl.momentum",
    "enqueue": "ssl.queue",
    "eval_batches": "data.pipeline",
    "init_queue": "ssl.queue",
    "make_view": "augment.views",
    "momentum_schedule": "ssl.momentum",
    "open_source": "data.sources",
    "patch_targets": "ssl.reconstruction",
    "rearrange_images": "ssl.rearrange",
    "reconstruction_loss": "ssl.reconstruction",
    "relational_terms": "ssl.relational",
    "score_words": "metrics.words",
    "train_batches": "data.pipeline",
}

__all__ = [
    "AttentionDecoder",
    "BiLSTM",
    "BiLSTMProjector",
    "Charset",
    "ContrastOptions",
    "CtcDecoder",
    "KeyQueue",
    "MlpProjector",
    "Predictors",
    "RCMSTR",
    "Recognizer",
    "ResNet",
    "TpsRectifier",
    "TransformerDecoder",
    "VIT_SIZES",
    "VisionTransformer",
    "__version__",
    "align_frames",
    "contrastive_objective",
    "contrastive_terms",
    "draw_mask",
    "draw_permutation",
    "ema_update",
    "enqueue",
    "eval_batches",
    "init_queue",
    "make_view",
    "momentum_schedule",
    "open_source",
    "patch_targets",
    "rearrange_images",
    "reconstruction_loss",
    "relational_terms",
    "score_words",
    "train_batches",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
