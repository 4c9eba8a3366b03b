"""From the plan to modules: the one place that chooses between encoders, projectors and heads."""

from __future__ import annotations

import math

import flax.linen as nn

from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.hierarchy import MlpProjector, Predictors
from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.models.vit import PixelDecoder, VisionTransformer
from rcmstr_jax.ssl.reconstruction import CnnReconstructionHead
from rcmstr_jax.training.plan import ModelPlan, PretrainPlan


def build_encoder(model: ModelPlan, axis_name: str | None = None) -> nn.Module:
    """The encoder alone; batch statistics are synchronised over `axis_name` where given."""
    if model.encoder == "cnn":
        return ResNet(
            width=model.width,
            blocks=model.blocks,
            axis_name=axis_name,
            dtype=model.compute_dtype,
            remat=model.remat,
        )
    if model.encoder == "compact":
        return CompactEncoder(
            width=model.width,
            blocks=model.blocks,
            attention=model.attention,
            heads=model.heads,
            axis_name=axis_name,
            dtype=model.compute_dtype,
            remat=model.remat,
        )
    return VisionTransformer(
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        dtype=model.compute_dtype,
        remat=model.remat,
    )


def build_rectifier(model: ModelPlan) -> nn.Module | None:
    """The frozen rectifier in front of the encoder, None without."""
    return TpsRectifier(size=model.image_size) if model.rectifier else None


def build_model(plan: PretrainPlan, axis_name: str | None = None) -> RCMSTR:
    """The network of a branch.

    Args:
      plan: of the run.
      axis_name: device axis over which batch statistics are synchronised, where the plan says so
        (`key_norm="sync"`); None keeps them local.
    """
    m, mask, dtype = plan.model, plan.mask, plan.model.compute_dtype
    projector: nn.Module
    if m.projector == "bilstm":
        projector = BiLSTMProjector(hidden=m.projector_hidden, dtype=dtype)
    else:
        projector = MlpProjector(hidden=m.projector_hidden, output=m.projector_hidden, dtype=dtype)
    head: nn.Module | None = None
    if mask is not None:
        rows, output = mask.grid[0], 3 * math.prod(mask.patch)
        if mask.target == "momentum":  # a convolutional encoder has a single row of features
            rows, output = 1, m.width
        head = PixelDecoder(output=output, dtype=dtype)
        if m.convolutional:
            head = CnnReconstructionHead(rows=rows, output=output, dtype=dtype)
    return RCMSTR(
        encoder=build_encoder(m, axis_name if plan.key_norm == "sync" else None),
        projector=projector,
        predictors=Predictors(
            dim=m.predict_dim,
            hierarchies=plan.contrast.levels,
            subwords=plan.subwords,
            dtype=dtype,
        ),
        reconstruction=head,
        rectifier=build_rectifier(m),
        form=mask.form if mask is not None and m.convolutional else None,
        visible_count=mask.visible if mask is not None else None,
    )
