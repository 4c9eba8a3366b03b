"""A recogniser as a program for others: StableHLO or ONNX, with a loader that needs no package.

The folder holds the program, `recognizer.json` (how an image becomes its input, what its classes
read as), `loader.py` (a copy of `loader.py` beside this file, less the other format), and for
StableHLO `weights.npz`.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from rcmstr_jax.data.decode import MAX_PIXELS
from rcmstr_jax.models.decoders.ctc import BLANK
from rcmstr_jax.recognition.heads import FrameHead
from rcmstr_jax.runtime.errors import ConfigError, in_one_line
from rcmstr_jax.runtime.files import whole_folder, write_json, write_text
from rcmstr_jax.target import compiling_for

if TYPE_CHECKING:
    from rcmstr_jax.recognition.recognizer import Recognizer

FORMATS = ("stablehlo", "onnx")
PLATFORMS = ("cpu", "cuda", "tpu")
ABOUT, LOADER = "recognizer.json", "loader.py"
# Beyond this many numbers by the same batch ONNX Runtime has to agree with JAX to be written.
TOLERANCE = 1e-5


def export_program(recognizer: Recognizer, target: str | Path, format: str) -> dict[str, int]:
    """Writes the folder `target`, whole or not at all.

    Args:
      recognizer: encoder and decoder; its batch size plays no part.
      target: new or empty folder, or one that this wrote, which is replaced.
      format: "stablehlo" (`jax.export` for cpu, cuda and tpu; classes, their probabilities and that
        of the word) or "onnx" (log-probabilities of classes by frame or step). Both take any number
        of images; StableHLO as uint8, ONNX as the same numbers in float32.

    Returns:
      Sizes of the files in bytes.

    Raises:
      ConfigError: unknown format, a decoder that ONNX cannot hold, a missing extra, another folder
        in the way, or a program that does not compute what the recogniser does.
    """
    target = Path(target)
    if format not in FORMATS:
        raise ConfigError(f"format={format!r} is unknown: choose one of {', '.join(FORMATS)}")
    if target.exists() and not (target / ABOUT).is_file():
        if not target.is_dir() or any(target.iterdir()):
            raise ConfigError(f"--to={target} exists and is no exported recogniser: give a new one")
    write = _write_stablehlo if format == "stablehlo" else _write_onnx
    # The forms for CPU are those that every platform can run.
    with whole_folder(target) as folder, compiling_for("cpu"):
        write(recognizer, folder)
        write_json(folder / ABOUT, describe(recognizer, format))
        write_text(folder / LOADER, loader(format))
        return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def describe(recognizer: Recognizer, format: str) -> dict[str, Any]:
    """`recognizer.json`: what goes in, and what comes out."""
    head, (height, width) = recognizer.head, recognizer.encoder.image_size
    frames = isinstance(head, FrameHead)
    return {
        "format": format,
        "image": {
            "height": height,
            "width": width,
            "channels": "RGB",
            "layout": "image, row, column, channel",
            "type": "uint8" if format == "stablehlo" else "float32, 0 to 255",
            "resizing": "aspect ratio not kept; directions that shrink by area average, then those"
            " that grow bicubic (a = -0.75), rounded after each",
            "transparency": "on white",
            "max_pixels": MAX_PIXELS,
        },
        "decoding": "frames" if frames else "steps",
        "end": BLANK if frames else head.charset.eos_token,
        "alphabet": head.alphabet,
        "characters": head.charset.characters,
        "decoder": head.name,
        "description": recognizer.description,
    }


def loader(format: str) -> str:
    """`loader.py` without the section of other formats."""
    text = Path(__file__).with_name(LOADER).read_text(encoding="utf-8")
    sections = re.split(r"(?m)^# %% (\w+)\n\n\n", text)
    kept = [
        body
        for name, body in zip(sections[1::2], sections[2::2], strict=True)
        if name == format or name not in FORMATS
    ]
    return sections[0] + "\n" + "".join(kept)


def _write_stablehlo(recognizer: Recognizer, folder: Path) -> None:
    # Weights are arguments, as they are of the recogniser's own program: as constants they would be
    # folded into one another, by other roundings.
    leaves, tree = jax.tree.flatten(recognizer.weights)
    unflatten = functools.partial(jax.tree.unflatten, tree)

    def read(leaves: list[Any], images: Any) -> Any:
        return tuple(recognizer.network(unflatten(leaves), images))

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *recognizer.encoder.image_size, 3), np.uint8)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    exported = export.export(jax.jit(read), platforms=PLATFORMS)(shapes, images)
    (folder / "model.stablehlo").write_bytes(exported.serialize())
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    np.savez(buffer, **arrays)
    (folder / "weights.npz").write_bytes(buffer.getvalue())


def _write_onnx(recognizer: Recognizer, folder: Path) -> None:
    head, size = recognizer.head, recognizer.encoder.image_size
    if head.name == "transformer":
        raise ConfigError(
            "format='onnx' has no loop that a transformer's search needs: export format='stablehlo'"
        )
    jax2onnx, runtime = (_module(name) for name in ("jax2onnx", "onnxruntime"))
    encoder, params = recognizer.encoder, recognizer.decoder_params

    def scores(images: Any) -> Any:
        frames = encoder.infer(encoder.params, encoder.batch_stats, images / 127.5 - 1.0)
        return jax.nn.log_softmax(head.logits(params, frames.astype(jnp.float32)))

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of every shape it cannot name
    try:
        model = jax2onnx.to_onnx(scores, [("batch", *size, 3)], model_name="recognizer")
    except Exception as error:
        raise ConfigError(
            f"format='onnx': jax2onnx cannot convert decoder {head.name} with encoder"
            f" {encoder.origin.get('architecture')} ({in_one_line(error)}): export"
            " format='stablehlo'"
        ) from error
    data = model.SerializeToString()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(data, options)
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3)).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    difference = float(np.max(np.abs(np.exp(found) - np.exp(np.asarray(jax.jit(scores)(images))))))
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"format='onnx': probabilities differ from JAX's by {difference:.1e}, more than"
            f" {TOLERANCE:.0e}: export format='stablehlo'"
        )
    (folder / "model.onnx").write_bytes(data)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"format='onnx' needs {name}: pip install 'rcmstr-jax[onnx]' ({error})"
        ) from error
