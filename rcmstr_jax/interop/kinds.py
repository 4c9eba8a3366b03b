"""Kinds of checkpoints that can be converted, their sizes, and what they become.

A kind turns a state dict into the flat arrays of a workdir (the names that pretraining writes:
`params/encoder/…`, `momentum_params/…`, `frozen_params/rectifier/…`, `queues/…`) and back.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rcmstr_jax.interop import architectures
from rcmstr_jax.interop.architectures import CONVNET, Arrays, Part, WrongKind
from rcmstr_jax.interop.rules import Rule, Rules, linear, under
from rcmstr_jax.interop.tables import BRANCH, READER, RECTIFIER, RESNET, VIT
from rcmstr_jax.interop.torch_weights import (
    Flat,
    WeightMismatch,
    export_weights,
    flatten,
    import_weights,
    strip_prefixes,
)
from rcmstr_jax.models.hierarchy import HIERARCHIES
from rcmstr_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes:
      name: value of `--kind`.
      prefixes: taken off in this order where all names share them.
      select: names (regular expression) that belong to the kind; others of a larger checkpoint
        are left alone.
      modules: state dict -> `{path prefix: (module, its arguments)}`; sizes are read off shapes.
      rules: names of all paths.
      settings: state dict -> fields of the `model` section of a config.
    """

    name: str
    prefixes: tuple[str, ...]
    select: str
    modules: Callable[[Arrays], dict[str, Part]]
    rules: Rules
    settings: Callable[[Arrays], dict[str, Any]]


def _cnn_settings(prefix: str) -> Callable[[Arrays], dict[str, Any]]:
    def settings(arrays: Arrays) -> dict[str, Any]:
        module, _ = architectures.resnet(arrays, f"{prefix}{CONVNET}" if prefix != "resnet" else "")
        assert isinstance(module, ResNet)
        found = {"encoder": "cnn", "width": module.width, "blocks": module.blocks}
        if prefix != "resnet":
            found["rectifier"] = architectures.has_rectifier(arrays, prefix)
        return found

    return settings


def _vit_settings(arrays: Arrays) -> dict[str, Any]:
    width = architectures.size(arrays, "patch_embed.proj.weight", 0)
    depth = architectures.count(arrays, r"blocks\.(\d+)\.")
    # The published sizes have heads of 64 channels; no array holds the number.
    heads = max(1, width // 64)
    return {"encoder": "vit", "width": width, "depth": depth, "heads": heads}


_ANY = "(?:params|batch_stats)/"
_FROZEN = "(?:frozen_params|batch_stats)/"
_QUEUES = [
    Rule("queues/(?P<h>frame|subword|word)/keys", "{h}_queue", "linear"),
    Rule("queues/(?P<h>frame|subword|word)/pointer", "{h}_queue_ptr", "scalar"),
]
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "rclstr",
            ("module.",),
            ".*",
            architectures.rclstr,
            [
                *under(_ANY, "encoder_q.", BRANCH),
                *under(_FROZEN, "encoder_q.", RECTIFIER),
                *under(f"momentum_{_ANY}", "encoder_k.", BRANCH),
                *under("momentum_batch_stats/", "encoder_k.", RECTIFIER),
                *_QUEUES,
            ],
            _cnn_settings("encoder_q."),
        ),
        Kind(
            "trba",
            ("module.",),
            ".*",
            architectures.trba,
            [
                *under(_ANY, "", BRANCH),
                *under(_FROZEN, "", RECTIFIER),
                *under("params/decoder/", "Prediction.", READER),
            ],
            _cnn_settings(""),
        ),
        Kind(
            "trbc",
            ("module.",),
            ".*",
            architectures.trbc,
            [
                *under(_ANY, "", BRANCH),
                *under(_FROZEN, "", RECTIFIER),
                *linear("params/decoder", "Prediction"),
            ],
            _cnn_settings(""),
        ),
        Kind(
            "tps",
            ("module.",),
            r"Transformation\..*",
            lambda arrays: {"rectifier": architectures.rectifier(arrays, "")},
            under(_FROZEN, "", RECTIFIER),
            lambda arrays: {"encoder": "cnn", "rectifier": True},
        ),
        Kind(
            "resnet",
            ("module.", "sparse_encoder.", "sp_cnn.", "model.", "encoder.", CONVNET, "ConvNet."),
            ".*",
            lambda arrays: {"encoder": architectures.resnet(arrays, "")},
            under(f"{_ANY}encoder/", "", RESNET),
            _cnn_settings("resnet"),
        ),
        Kind(
            "vit",
            ("module.", "model."),
            r"(?!pix_decoder\.|decoder).*",
            architectures.vit,
            under("params/encoder/", "", VIT),
            _vit_settings,
        ),
    )
}


# Convolutions that see the image; and how much of each colour is in a grey one (ITU-R 601).
_FIRST = ("conv0_1.weight", "LocalizationNetwork.conv.0.weight")
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def _prepare(kind: Kind, arrays: Arrays) -> dict[str, np.ndarray]:
    """The names of the kind, without prefixes; a fused qkv bias split, weights of grey coloured."""
    everything = strip_prefixes(arrays, kind.prefixes)
    arrays = {name: a for name, a in everything.items() if re.fullmatch(kind.select, name)}
    if not arrays:
        raise WrongKind(
            f"this is no checkpoint of kind {kind.name!r}: expected names like {kind.select}; "
            f"found {', '.join(list(everything)[:8]) or 'nothing'}"
        )
    for name in [n for n in arrays if n.endswith(_FIRST) and arrays[n].shape[1:2] == (1,)]:
        arrays[name] = arrays[name] * GREY[None, :, None, None]
    if kind.name == "vit":
        arrays = strip_prefixes(arrays, ("encoder.", "backbone."))
        for name in [n for n in arrays if n.endswith("attn.qkv.bias")]:
            q, _, v = np.split(arrays.pop(name), 3)
            # A bias on the keys adds the same number to all logits of a query: softmax drops it.
            arrays[name.replace("qkv.bias", "q_bias")] = q
            arrays[name.replace("qkv.bias", "v_bias")] = v
    return arrays


def import_checkpoint(
    kind: Kind, arrays: Arrays, *, waive: Sequence[str] = (), where: str = ""
) -> tuple[Flat, dict[str, Any]]:
    """Turns a state dict into the arrays of a workdir.

    Args:
      kind: of the checkpoint.
      arrays: its state dict, as read.
      waive: patterns of names (without prefix) that may be missing, unexpected or misshapen;
        what is missing starts at random.
      where: what to call the source in an error.

    Returns:
      Flat arrays, float32; and fields of the `model` section of a config.

    Raises:
      WrongKind: if it is no checkpoint of this kind.
      WeightMismatch: listing all names that differ.
    """
    arrays = _prepare(kind, arrays)
    template: dict[str, Any] = {}
    for part, (module, arguments) in kind.modules(arrays).items():
        drawn = flatten(module.init(jax.random.key(0), *arguments)) if waive else None
        for path, leaf in (drawn or architectures.template(module, *arguments)).items():
            collection, inner = path.split("/", 1)
            frozen = part == "rectifier" and collection == "params"
            template[f"{'frozen_params' if frozen else collection}/{part}/{inner}"] = leaf
            if kind.name == "rclstr" and not frozen:
                template[f"momentum_{collection}/{part}/{inner}"] = leaf
    if kind.name == "rclstr":
        template |= _queue_template(arrays)
        arrays = _drop_frozen_copy(arrays, where)
    flat = import_weights(arrays, template, kind.rules, dtype=np.float32, waive=waive, where=where)
    return flat, kind.settings(arrays)


def export_checkpoint(kind: Kind, flat: Mapping[str, Any], *, fused_bias: bool = False) -> Flat:
    """Turns the arrays of a workdir into a state dict; the inverse of `import_checkpoint`.

    Args:
      kind: of the checkpoint; arrays of a workdir that it has no name for are left out.
      flat: arrays of a workdir.
      fused_bias: write one bias for queries, keys (zero) and values.

    Raises:
      WrongKind: if the workdir lacks what a checkpoint of the kind consists of.
    """
    named = {path: array for path, array in flat.items() if is_named(kind, path)}
    if not named:
        raise WrongKind(f"nothing in it has a name in a checkpoint of kind {kind.name!r}")
    arrays = export_weights(named, kind.rules)
    _require_whole(kind, arrays)
    if kind.name == "rclstr":
        for name in [n for n in arrays if n.startswith("encoder_q.Transformation.")]:
            arrays.setdefault(name.replace("encoder_q.", "encoder_k."), arrays[name].copy())
        arrays = {f"module.{name}": array for name, array in arrays.items()}
    if fused_bias:
        for name in [n for n in arrays if n.endswith("attn.q_bias")]:
            q, v = arrays.pop(name), arrays.pop(name.replace("q_bias", "v_bias"))
            arrays[name.replace("q_bias", "qkv.bias")] = np.concatenate([q, np.zeros_like(q), v])
    return arrays


def is_named(kind: Kind, path: str) -> bool:
    """Whether an array of a workdir has a name in checkpoints of the kind."""
    return any(rule.translate(path) for rule in kind.rules)


def _require_whole(kind: Kind, arrays: Arrays) -> None:
    """What is written must be readable: a part without names would silently be absent."""
    try:
        import_checkpoint(kind, arrays)
    except (WrongKind, WeightMismatch) as error:
        raise WrongKind(
            f"the workdir holds no whole checkpoint of kind {kind.name!r}: {error}"
        ) from error


def _queue_template(arrays: Arrays) -> dict[str, Any]:
    queues: dict[str, Any] = {}
    for hierarchy in HIERARCHIES:
        if f"{hierarchy}_queue" in arrays:
            dim, entries = (
                architectures.size(arrays, f"{hierarchy}_queue", axis) for axis in (0, 1)
            )
            queues[f"queues/{hierarchy}/keys"] = np.zeros((entries, dim), np.float32)
            queues[f"queues/{hierarchy}/pointer"] = np.zeros((), np.int32)
    return queues


def _drop_frozen_copy(arrays: Arrays, where: str) -> dict[str, np.ndarray]:
    """The rectifier's parameters stand in both branches: they have to be equal, one copy stays."""
    kept, differing = dict(arrays), []
    for name in list(arrays):
        twin = name.replace("encoder_k.", "encoder_q.", 1)
        statistic = name.rpartition(".")[2].startswith("running_")
        if name.startswith("encoder_k.Transformation.") and not statistic and twin in arrays:
            if not np.array_equal(arrays[name], arrays[twin]):
                differing.append(f"{name} (differs from {twin}: the rectifier is frozen)")
            del kept[name]
    if differing:
        raise WeightMismatch([], differing, [], where)
    return kept
