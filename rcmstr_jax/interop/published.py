"""Recognisers of deep-text-recognition-benchmark become ours, whole, and the way back.

TPS-ResNet-BiLSTM-Attn and -CTC, the rectifier optional; names and shapes are the published ones.
Their decoders know fewer special tokens: [GO] and [s] (attention), the blank (CTC). Ours has more
classes, which stay silent: a zero kernel and a bias far below all others, so that readings and
confidences are the published ones, and training can still wake them. Images of one channel were
grey by ITU-R 601 there; the same weights times that grey's shares read colours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcmstr_jax.data.charset import ATTENTION_SPECIALS, CTC_SPECIALS, PRESETS, Charset
from rcmstr_jax.interop.architectures import Arrays, WrongKind
from rcmstr_jax.interop.torch_weights import Flat
from rcmstr_jax.recognition.saved import SavedRecognizer
from rcmstr_jax.runtime.errors import ConfigError

# Bias of classes that the published decoder lacks: exp(-30) is lost beside any other in float32.
SILENT = -30.0
MAX_LENGTH = 25  # characters, as published training scripts have it
# Ours of the published special tokens, in their order, by the name of our decoder.
_SPECIALS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "ctc": (CTC_SPECIALS, ("[BLANK]",)),
    "plain_attention": (ATTENTION_SPECIALS, ("[SOS]", "[EOS]")),
}
DECODER_OF = {"trba": "plain_attention", "trbc": "ctc"}
_PUBLISHED = {"trba": "Attn", "trbc": "CTC"}
# Charsets that the published scripts train with: 36 without and 94 with case and punctuation.
_KNOWN = (36, 94)
_GENERATOR = {"ctc": "generator/", "plain_attention": "reader/generator_"}


def architecture_name(arrays: Arrays) -> str:
    """`TPS-ResNet-BiLSTM-Attn`, `None-VGG-BiLSTM-CTC` and so on, by the names of the arrays."""
    names = list(arrays)

    def some(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    convnet = r"FeatureExtraction\.ConvNet\."
    features = (("ResNet", "conv0_1"), ("RCNN", r"\d+\.wgf_u"), ("VGG", r"\d+\.weight"))
    found = [name for name, pattern in features if some(convnet + pattern)]
    return "-".join(
        (
            "TPS" if some(r"Transformation\.") else "None",
            found[0] if found else "unknown",
            "BiLSTM" if some(r"SequenceModeling\.") else "None",
            "Attn" if some(r"Prediction\.attention_cell\.") else "CTC",
        )
    )


def refuse_others(kind: str, arrays: Arrays) -> None:
    """Refuses recognisers that are not of this kind, by their name.

    Raises:
      WrongKind: what it is, and what to do.
    """
    parts = {name.partition(".")[0] for name in arrays}
    if not {"FeatureExtraction", "Prediction"} <= parts:
        return  # No recogniser at all: the missing names tell.
    name = architecture_name(arrays)
    wanted = f"ResNet-BiLSTM-{_PUBLISHED[kind]}"
    if name.partition("-")[2] == wanted:
        return
    others = {f"ResNet-BiLSTM-{last}": key for key, last in _PUBLISHED.items()}
    fitting = others.get(name.partition("-")[2])
    remedy = (
        f"give --kind={fitting}"
        if fitting
        else f"only TPS-{wanted} and None-{wanted} can be read, another has to be trained anew"
    )
    raise WrongKind(f"this is {name}, --kind={kind} is a {wanted}: {remedy}")


def charset_of(decoder: str, classes: int, given: Charset | None) -> Charset:
    """The charset of a published decoder, which its file does not name.

    Args:
      decoder: name of ours, see `DECODER_OF`.
      classes: of its output layer.
      given: characters in the order of training; None takes the published script's of that size.

    Raises:
      ConfigError: another number of characters, or none known of this size.
    """
    characters = classes - len(_SPECIALS[decoder][1])
    if given is None and characters in _KNOWN:
        return Charset(PRESETS[characters])
    if given is None or len(given) != characters:
        value = "is missing" if given is None else f"has {len(given)} characters"
        raise ConfigError(
            f"--charset {value}, but the decoder has {classes} classes, for {characters}"
            " characters: give --charset=FILE, a text file of so many, in the order of training"
        )
    return given


def image_width_of(arrays: Arrays) -> int:
    """Width in pixels that a rectifier writes, 100 without one.

    Raises:
      WrongKind: images are not 32 pixels high.
    """
    pixels = arrays.get("Transformation.GridGenerator.P_hat")
    if pixels is None:
        return 100
    if len(pixels) % 32 or len(pixels) % 128:
        raise WrongKind(
            f"Transformation.GridGenerator.P_hat has {len(pixels)} rows: only images 32 pixels high"
            " and a multiple of 4 wide can be read"
        )
    return len(pixels) // 32


def to_recognizer(
    kind: str, flat: Mapping[str, np.ndarray], model: dict[str, Any], charset: Charset, file: str
) -> SavedRecognizer:
    """What `interop.kinds.import_checkpoint` gives, as a recogniser.

    Args:
      kind: "trba" or "trbc".
      flat: arrays of a workdir, `params/encoder/…`, `params/projector/…`, `params/decoder/…`.
      model: `model` section of a config.
      charset: see `charset_of`.
      file: that it comes from, for the description.
    """
    decoder = DECODER_OF[kind]
    arrays: dict[str, np.ndarray] = {}
    for path, array in flat.items():
        collection, part, inner = path.split("/", 2)
        collection = collection.replace("frozen_params", "params")
        name = _to_decoder(decoder, part, inner)
        arrays[f"decoder/{name}" if name else f"encoder/{collection}/{part}/{inner}"] = array
    arrays = _classes(decoder, arrays, charset, _widen)
    hidden = flat["params/projector/layer_0/forward_weight_hh"].shape[0]
    counts = ("examined", "unlabelled", "outside_charset", "too_long", "unreadable", "trained_on")
    labels = {"available": None, **dict.fromkeys(counts, 0)}
    train = {"source": [file], "labels_asked": 0.0, "labels": labels, "steps": 0, "batch_size": 0}
    description = {
        "protocol": "converted",
        "initialisation": "pretrained",
        "encoder": {"source": file, "architecture": "cnn", "model": model},
        "seed": 0,
        "steps": 0,
        "train": train,
    }
    settings = {"name": decoder, "max_length": MAX_LENGTH, "beams": 1, "hidden": hidden, "depth": 6}
    settings["characters"] = charset.characters
    return SavedRecognizer(
        Path(file), model, settings, description, arrays, f"converted from {file}"
    )


def from_recognizer(kind: str, saved: SavedRecognizer) -> Flat:
    """The inverse of `to_recognizer`; classes that the published decoder lacks are left out.

    Raises:
      WrongKind: a recogniser with another decoder.
    """
    decoder = DECODER_OF[kind]
    if saved.decoder["name"] != decoder or saved.model["encoder"] != "cnn":
        raise WrongKind(
            f"{saved.place} holds a recogniser with encoder {saved.model['encoder']} and decoder"
            f" {saved.decoder['name']}; --kind={kind} is cnn and {decoder}"
        )
    charset = Charset(saved.decoder["characters"])
    flat: Flat = {}
    for path, array in _classes(decoder, saved.arrays, charset, _narrow).items():
        first, rest = path.split("/", 1)
        if first == "decoder":
            flat[f"params/{_from_decoder(decoder, rest)}"] = array
        else:
            frozen = rest.startswith("params/rectifier/")
            flat[f"frozen_{rest}" if frozen else rest] = array
    return flat


def _to_decoder(decoder: str, part: str, inner: str) -> str:
    """Where a parameter of sequence model or prediction lies in our decoder, "" for others."""
    if part == "projector":
        return f"context/{inner}" if decoder == "ctc" else inner.replace("layer_", "context_")
    if part == "decoder":
        return f"{'generator' if decoder == 'ctc' else 'reader'}/{inner}"
    return ""


def _from_decoder(decoder: str, name: str) -> str:
    if name.startswith("context"):
        inner = name.removeprefix("context/").replace("context_", "layer_")
        return f"projector/{inner}"
    return f"decoder/{name.split('/', 1)[1]}"


_Change = Callable[[np.ndarray, int, list[int], int, float], np.ndarray]


def _classes(decoder: str, arrays: Arrays, charset: Charset, change: _Change) -> Flat:
    """The same with `change` made along every axis of classes."""
    ours, theirs = _SPECIALS[decoder]
    places = [ours.index(token) for token in theirs]
    places += [len(ours) + i for i in range(len(charset))]
    total = len(ours) + len(charset)
    generator = f"decoder/{_GENERATOR[decoder]}"
    axes = {f"{generator}kernel": (1, 0.0), f"{generator}bias": (0, SILENT)}
    if decoder == "plain_attention":
        axes["decoder/reader/weight_ih"] = (0, 0.0)  # after the rows of the features
    return {
        name: change(array, axes[name][0], places, total, axes[name][1]) if name in axes else array
        for name, array in arrays.items()
    }


def _widen(array: np.ndarray, axis: int, places: list[int], total: int, fill: float) -> np.ndarray:
    """Classes, the last entries of an axis, put in their places among `total`."""
    rows = np.moveaxis(array, axis, 0)
    others = len(rows) - len(places)
    wide = np.full((others + total, *rows.shape[1:]), fill, array.dtype)
    wide[:others] = rows[:others]
    wide[[others + place for place in places]] = rows[others:]
    return np.ascontiguousarray(np.moveaxis(wide, 0, axis))


def _narrow(array: np.ndarray, axis: int, places: list[int], total: int, fill: float) -> np.ndarray:
    """The inverse of `_widen`."""
    del fill
    others = array.shape[axis] - total
    kept = [*range(others), *(others + place for place in places)]
    return np.ascontiguousarray(np.take(array, kept, axis))
