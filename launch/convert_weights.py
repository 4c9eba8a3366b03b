r"""Converts published PyTorch weights into ours and back, and a recogniser into what is given away.

  python launch/convert_weights.py --from=FILE --kind=KIND --to=DIR [--waive=PATTERN,...] \
    [--charset=FILE]
  python launch/convert_weights.py --from=DIR --kind=KIND --to=FILE [--fused_bias]
  python launch/convert_weights.py --from=DIR --kind=recognizer --to=DIR2 \
    [--check=lmdb:PATH] [--scores=DIR3] [--notes=FILE.md]
  python launch/convert_weights.py --from=DIR|compact --kind=stablehlo|onnx --to=DIR2

FILE is .npz, .safetensors or a PyTorch file (.pth, .pt, .ckpt, .tar, .bin; needs the torch extra).
DIR can be given to launch/evaluate.py as --pretrained. Kinds:

  rclstr  pretraining checkpoint of RCLSTR: both branches (and rectifier), queues
  trba    TPS-ResNet-BiLSTM-Attn recogniser, deep-text-recognition-benchmark names, TPS optional
  trbc    TPS-ResNet-BiLSTM-CTC, the same with another decoder
  tps     the rectifier of any of them
  resnet  the 29-layer ResNet alone, with any of the usual prefixes (SparK's among them)
  vit     ViT encoder of DiG or MAE names, q and v biases separate or in a fused qkv bias

Of trba and trbc DIR is a folder of weights: a recogniser that reads, is scored and can be
continued; of the others a workdir like that of pretraining. Recognisers of PyTorch do not name
their characters: those of 36 and 94 are the published ones, others are given with --charset, in
the order of training.

The third form makes a folder of weights of a finished launch/evaluate.py: weights.safetensors,
config.json with their SHA-256, and README.md, a model card. DIR2 can be given to launch/evaluate.py
as --pretrained and to launch/recognize.py as --checkpoint; below rcmstr_jax/pretrained/ its name is
enough. The numbers are float16 if every image of --check is then read as before, else float32. The
card takes its figures from the results in DIR, or from those of another scoring, and what the data
and their licences are from FILE.md.

The fourth form exports a recogniser as a program, with a loader that needs no package of ours:
docs/serving.md.

Import is strict: missing, unexpected and misshapen names are all listed, and nothing is written.
Names that may differ are waived by pattern, as they stand in that list.

Exit codes: 0 converted; 2 nothing was written, the message says why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Before JAX is imported: nothing here needs an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain.common import get_config, use_vit
from rcmstr_jax.interop import published
from rcmstr_jax.interop.files import read_arrays, write_arrays
from rcmstr_jax.interop.kinds import KINDS, export_checkpoint, import_checkpoint, is_named
from rcmstr_jax.interop.recognizers import export_recognizer
from rcmstr_jax.interop.torch_weights import strip_prefixes
from rcmstr_jax.interop.workdir import model_config, read_workdir, write_workdir
from rcmstr_jax.recognition.export import FORMATS
from rcmstr_jax.recognition.heads import make_charset
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import (
    SavedRecognizer,
    find_recognizer,
    read_saved,
    write_weights,
)
from rcmstr_jax.runtime import command_line
from rcmstr_jax.runtime.checkpoint import CheckpointError
from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.files import whole_folder

FROM = flags.DEFINE_string("from", None, "State dict to import, or workdir to export.")
TO = flags.DEFINE_string("to", None, "Workdir to create, or file to write.")
RECOGNIZER = "recognizer"
ALL_KINDS = [*sorted(KINDS), RECOGNIZER, *FORMATS]
KIND = flags.DEFINE_enum("kind", None, ALL_KINDS, "Kind of checkpoint.")
WAIVE = flags.DEFINE_list("waive", [], "Import: patterns of names that may differ.")
CHARSET = flags.DEFINE_string("charset", None, "Import of trba, trbc: file of characters.")
FUSED = flags.DEFINE_bool("fused_bias", False, "Export of a ViT: one bias for q, k and v.")
CHECK = flags.DEFINE_string("check", "", "Recogniser: images that float16 must read as float32.")
SCORES = flags.DEFINE_string("scores", None, "Recogniser: workdir whose results the card states.")
NOTES = flags.DEFINE_string("notes", None, "Recogniser: Markdown on the data and their licences.")
flags.mark_flags_as_required(["from", "to", "kind"])


def main(argv: Sequence[str]) -> int:
    """Converts in the direction that --from tells; returns the exit code."""
    del argv
    try:
        source, target = Path(str(FROM.value)), Path(str(TO.value))
        given = [f"--{flag.name}" for flag in (CHECK, SCORES, NOTES) if flag.value]
        if given and KIND.value != RECOGNIZER:
            raise ValueError(f"{given[0]} belongs to --kind={RECOGNIZER}: leave it out")
        if CHARSET.value and (KIND.value not in published.DECODER_OF or source.is_dir()):
            raise ValueError(
                f"--charset={CHARSET.value} belongs to an import of"
                f" --kind={'|'.join(published.DECODER_OF)}: leave it out"
            )
        convert = export_workdir if source.is_dir() else import_file
        if KIND.value in FORMATS:
            convert = export_program
        print((give_away if KIND.value == RECOGNIZER else convert)(source, target))
    except (CheckpointError, ValueError, OSError) as error:
        said = str(error).replace("--pretrained=", "--from=")
        print(f"nothing was written: {said}", file=sys.stderr)
        return 2
    return 0


def import_file(source: Path, target: Path) -> str:
    """Writes the workdir `target`, whole or not at all; returns what to tell the user."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--to={target} exists and is no empty folder: give a new one")
    kind = KINDS[str(KIND.value)]
    arrays = strip_prefixes(read_arrays(source), kind.prefixes)
    if kind.name in published.DECODER_OF:
        published.refuse_others(kind.name, arrays)
    flat, settings = import_checkpoint(kind, arrays, waive=WAIVE.value, where=str(source))
    config = get_config()
    if settings["encoder"] == "vit":
        use_vit(config)
    model_config(config, settings, flat)
    with whole_folder(target) as folder:
        if kind.name in published.DECODER_OF:
            config.model.image_width = published.image_width_of(arrays)
            write_weights(folder, recognizer_of(flat, config.model, source), "float32")
            Recognizer.from_checkpoint(folder)  # which compares every shape
        else:
            write_workdir(folder, flat, config, origin=source.name)
    numbers = sum(array.size for array in flat.values())
    return f"{len(flat)} arrays with {numbers:,} numbers from {source} to {target}"


def recognizer_of(flat: dict[str, np.ndarray], model: ConfigDict, source: Path) -> SavedRecognizer:
    """The recogniser of imported arrays, with its charset."""
    kind = str(KIND.value)
    given = make_charset(CHARSET.value) if CHARSET.value else None
    biases = ("params/decoder/bias", "params/decoder/generator_bias")
    classes = next(len(flat[name]) for name in biases if name in flat)
    charset = published.charset_of(published.DECODER_OF[kind], classes, given)
    return published.to_recognizer(kind, flat, config_to_jsonable(model), charset, source.name)


def give_away(source: Path, target: Path) -> str:
    """Writes the folder of weights `target`; returns what to tell the user."""
    notes = Path(NOTES.value).read_text(encoding="utf-8") if NOTES.value else ""
    scores = Path(SCORES.value) if SCORES.value else None
    return export_recognizer(source, target, check=CHECK.value, scores=scores, notes=notes)


def export_program(source: Path, target: Path) -> str:
    """Writes the program of a recogniser into `target`; returns what to tell the user."""
    sizes = Recognizer.from_pretrained(str(FROM.value)).export(target, str(KIND.value))
    return f"{source} to {target}: " + ", ".join(f"{n} {size:,} B" for n, size in sizes.items())


def export_workdir(source: Path, target: Path) -> str:
    """Writes the state dict `target`; returns what to tell the user."""
    if WAIVE.value:
        raise ValueError(f"--waive={','.join(WAIVE.value)} belongs to an import: leave it out")
    kind = KINDS[str(KIND.value)]
    home = find_recognizer(source) if kind.name in published.DECODER_OF else None
    if home is None:
        flat = read_workdir(source)
    else:
        flat = published.from_recognizer(kind.name, read_saved(home))
    arrays = export_checkpoint(kind, flat, fused_bias=FUSED.value)
    write_arrays(target, arrays)
    parts = {"/".join(path.split("/")[:2]) for path in flat if not is_named(kind, path)}
    left_out = f"; left out: {', '.join(sorted(parts))}" if parts else ""
    return f"{len(arrays)} arrays from {source} to {target}{left_out}"


run = command_line.command(main)  # rcmstr-convert

if __name__ == "__main__":
    run()
