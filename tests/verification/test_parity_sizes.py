"""Every size of a parity check comes from the arrays.

Files of other sizes are made with random weights and blank figures. A check that knew a size by
itself would stop, miss an array or compare shapes that differ: every figure must be reached, and
differ by a finite amount. Shapes are written out by hand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import Rules
from rcmstr_jax.interop.torch_weights import export_weights
from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.hierarchy import Predictors
from rcmstr_jax.models.rcmstr import RCMSTR
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.verification.parity import contrastive, decoders, encoder, sparse, tps
from rcmstr_jax.verification.parity.report import check_file

Arrays = dict[str, np.ndarray]
RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def blank(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def weights(prefix: str, rules: Rules, module: nn.Module, *arguments: Any) -> Arrays:
    """A random state dict in the published names, variances positive."""
    shapes = template(module, *arguments)
    flat = {path: 0.3 * draw(*leaf.shape) + path.endswith("var") for path, leaf in shapes.items()}
    return {f"{prefix}{name}": array for name, array in export_weights(flat, rules).items()}


def branch(subwords: int) -> tuple[RCMSTR, Any]:
    """Images of 60 pixels are 16 frames here."""
    network = RCMSTR(
        encoder=ResNet(width=16, blocks=(1, 1, 1, 2)),
        projector=BiLSTMProjector(hidden=3, layers=1, output=5),
        predictors=Predictors(dim=7, subwords=subwords),
    )
    return network, jnp.zeros((1, 32, 60, 3))


def of_encoder() -> Arrays:
    arrays = {"image": draw(3, 3, 32, 60), **weights("sd/", encoder.RULES, *branch(subwords=3))}
    stages = {
        "layer1": (3, 4, 16, 30),
        "layer2": (3, 8, 8, 15),
        "layer3": (3, 16, 4, 16),
        "layer4": (3, 16, 4, 16),
        "conv4_2": (3, 16, 1, 16),
        "feature_map": (3, 16, 1, 16),
        "visual_feature": (3, 16, 16),
        "contextual_feature": (3, 16, 5),
    }
    heads = {"frame": (3, 16, 7), "subword": (3, 3, 7), "word": (3, 1, 7)}
    arrays |= blank({f"{mode}/{n}": s for mode in ("eval", "train") for n, s in stages.items()})
    arrays |= blank({f"eval/{name}": shape for name, shape in heads.items()})
    running = {name: array.shape for name, array in arrays.items() if "running_" in name}
    return arrays | blank({f"train/after/{name[3:]}": s for name, s in running.items()})


def of_tps() -> Arrays:
    rectifier = TpsRectifier(fiducials=8, size=(16, 24), channels=(2, 3, 4), hidden=5)
    shapes = {
        "eval/fiducial_points": (2, 8, 2),
        "eval/grid": (2, 384, 2),
        "eval/rectified": (2, 3, 16, 24),
    }
    state_dict = weights("sd/", tps.RULES, rectifier, jnp.zeros((1, 16, 24, 3)))
    return {"image": draw(2, 3, 16, 24), **state_dict, **blank(shapes)}


def of_sparse() -> Arrays:
    stack = sparse.Stack((3, 4, 5, 6))
    state_dict = weights("sd/", sparse.RULES, stack, jnp.zeros((1, 16, 24, 3)))
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}": (2, 6, 4, 6)
        for name in ("dense/train/out", "sparse/train/out", "sparse/eval/out_after_one_train_step")
    }
    for name, array in state_dict.items():
        group = "after" if "running_" in name else "grad"
        if "num_batches" not in name:
            shapes[f"sparse/train/{group}/{name[3:]}"] = array.shape
    active = RNG.uniform(size=(2, 4, 6)) < 0.5
    inputs = {"image": draw(2, 3, 16, 24), "active": active}
    return inputs | state_dict | blank(shapes) | {"sparse/train/cotangent": draw(2, 6, 4, 6)}


def of_decoders() -> Arrays:
    """5 characters, words of up to 4, frames of 10 channels, 9 channels of context."""
    charset, words = Charset("01abc"), ["ab", "c?0", "1"]
    arrays: Arrays = {"words": np.array(words), "charset": np.array(charset.characters)}
    arrays["visual_feature"] = draw(3, 7, 10)
    heads = {
        name: make_head(kind, charset, hidden=6, max_length=4)
        for name, kind in (("attn", "attention"), ("ctc", "ctc"))
    }
    clone = heads["attn"].module.clone(context=9)
    heads["attn"] = dataclasses.replace(heads["attn"], module=clone)
    frames = jnp.zeros((1, 7, 10))
    for name, head, rules, more in (
        ("attn", heads["attn"], decoders.ATTENTION_RULES, (jnp.zeros((1, 5), jnp.int32),)),
        ("ctc", heads["ctc"], decoders.CTC_RULES, ()),
    ):
        arrays |= weights(f"{name}/sd/", rules, head.module, frames, *more)
        targets = head.targets(words)
        arrays[f"{name}/index"], arrays[f"{name}/length"] = targets["tokens"], targets["lengths"]
    assert arrays["attn/index"].shape == (3, 6) and arrays["ctc/index"].shape == (3, 4)
    arrays |= {"attn/num_class": np.array(10), "ctc/num_class": np.array(9)}
    arrays["ctc/greedy"] = np.array(["?"] * 3)
    shapes = {
        "attn/logits_teacher_forced": (3, 5, 10),
        "attn/logits_greedy": (3, 5, 10),
        "ctc/logits": (3, 7, 9),
        "attn/loss": (),
        "ctc/loss": (),
    }
    return arrays | {name: array.astype(np.float32) for name, array in blank(shapes).items()}


def of_contrastive() -> Arrays:
    """4 images of 4 blocks, 3 sub-words, two SGD steps."""
    module, images = branch(subwords=3)
    arrays: Arrays = {"im_q": draw(4, 3, 32, 60), "im_k": draw(4, 3, 32, 60)}
    for side in ("q", "k"):
        arrays |= weights(f"sd/encoder_{side}.", contrastive.RULES, module, images)
    trained = [
        (name.removeprefix("sd/encoder_q."), array.shape)
        for name, array in arrays.items()
        if name.startswith("sd/encoder_q.") and "running_" not in name and "num_batches" not in name
    ]
    for name, entries, keys in (("frame", 192, 64), ("subword", 36, 12), ("word", 20, 4)):
        queue = draw(7, entries)
        arrays[f"sd/{name}_queue"] = queue / np.linalg.norm(queue, axis=0)
        arrays[f"after/{name}_queue"] = np.zeros((7, entries))
        for when in ("sd", "after"):
            arrays[f"{when}/{name}_queue_ptr"] = np.array([2 * keys % entries])
    terms = {
        "frame": 2 * 4 * 16,
        "subword": 2 * 4 * 3,
        "word": 2 * 4,
        "frame_to_subword": 4 * 3 * 6,  # stride 5, window 16 - 2 * 5
        "subword_to_word": 4 * 3,
        "frame_to_word": 4 * 16,
    }
    for name, count in terms.items():
        parts = ("nce", "relation_kl_mean", "relation_kl_batchmean")
        arrays |= blank({f"{name}/{part}": () for part in parts})
        arrays[f"{name}/positive_logit"] = np.zeros(count)
    arrays |= blank({"total_loss_mean": (), "total_loss_batchmean_with_frame_word": ()})
    arrays |= {f"grad_batchmean/{n}": np.zeros(shape, np.float32) for n, shape in trained}
    arrays["permutation"] = RNG.permutation(8)
    arrays["sgd/permutations"] = np.stack([RNG.permutation(8) for _ in range(2)])
    arrays["sgd/losses"] = np.zeros(2)
    scalars = {"momentum": 0.9, "temperature": 0.1, "relation_temperature": 0.2, "sgd/lr": 1e-3}
    arrays |= {name: np.array(value) for name, value in scalars.items()}
    sizes = dict(trained)
    last = {"block": 1, "layer": 0}
    for prefix, names in (
        ("after/encoder_k.", contrastive.MOMENTUM_AFTER),
        ("sgd/after/encoder_k.", contrastive.MOMENTUM_AFTER),
        ("sgd/after/encoder_q.", contrastive.ONLINE_AFTER),
    ):
        arrays |= blank({f"{prefix}{n.format(**last)}": sizes[n.format(**last)] for n in names})
    return arrays


@pytest.fixture(autouse=True)
def fresh_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file draws the same numbers whichever tests run before it."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("module", "make"),
    [
        (encoder, of_encoder),
        (tps, of_tps),
        (sparse, of_sparse),
        (decoders, of_decoders),
        pytest.param(contrastive, of_contrastive, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "FILE", ""),
)
def test_files_of_other_sizes_are_compared_in_full(
    module: Any, make: Callable[[], Arrays], tmp_path: Path, x64: None
) -> None:
    arrays = make()
    np.savez(tmp_path / module.FILE, **arrays)
    rows = check_file(tmp_path / module.FILE, module.check)
    unreached = [row for row in rows if not math.isfinite(row.error) and row.name != "ctc/greedy"]
    assert not unreached, unreached
    figures = {
        name for name, array in arrays.items() if array.dtype.kind == "f" and not array.any()
    }
    assert figures <= {row.name for row in rows}
    passed = [row for row in rows if row.name in figures and row.verdict != "FAIL"]
    assert not passed, passed
