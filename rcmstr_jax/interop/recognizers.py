"""A trained recogniser as a folder to give away: weights, description, model card."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.pipeline import eval_batches
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.evaluation.analysis import LONGEST_ROW, Analysis
from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.metrics.confusions import group_rows
from rcmstr_jax.metrics.tables import bounds, markdown_table, show
from rcmstr_jax.metrics.words import POLICIES
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import (
    WEIGHTS,
    SavedRecognizer,
    read_saved,
    recognizer_home,
    require_recognizer,
    write_weights,
)
from rcmstr_jax.runtime.config_files import CONFIG_JSON
from rcmstr_jax.runtime.digest import state_digest
from rcmstr_jax.runtime.files import whole_folder, write_text
from rcmstr_jax.training.plan import model_plan

CARD = "README.md"
CONFUSIONS_SHOWN = 10
_BATCH = 64


def export_recognizer(
    source: Path, target: Path, *, check: str = "", scores: Path | None = None, notes: str = ""
) -> str:
    """Writes the folder `target`, whole or not at all.

    The numbers are rounded to float16 if every image of `check` is then read as before.

    Args:
      source: workdir of a finished evaluation, or another folder of weights.
      target: new folder, or one of weights, which these replace.
      check: source of images, as in `lmdb:data/benchmark`; "" keeps float32.
      scores: workdir whose results the card states; None takes those of `source`.
      notes: Markdown on the data and their licences, for the card.

    Returns:
      What to tell the user.

    Raises:
      ValueError: no recogniser or no results there, images that cannot be read, or a target that
        holds something else.
    """
    if target.exists() and not (target / WEIGHTS).is_file():
        raise ValueError(f"--to={target} exists and is no folder of weights: give a new one")
    home = recognizer_home(source)
    saved = without_places(read_saved(require_recognizer(source)))
    results = Evaluation.read(scores or home)
    if results is None:
        raise ValueError(
            f"{scores or home} holds no results.json for the model card: score the recogniser"
            " (--config=score), and name that workdir with --scores"
        )
    analysis = Analysis.read(scores or home)
    trained = Evaluation.read(home) or results
    with whole_folder(target) as folder:
        dtype, said = "float32", "float32: without --check nothing shows what rounding changes"
        if check:
            write_weights(folder, saved, "float16")
            dtype, said = compare_readings(source, folder, check)
        write_weights(folder, saved, dtype)
        rounded = {k: v.astype(dtype).astype(np.float32) for k, v in saved.arrays.items()}
        assert state_digest(read_saved(folder).arrays) == state_digest(rounded)
        rounding = f" ({said.partition(': ')[2]})" if check else ""
        digest = json.loads((folder / CONFIG_JSON).read_text(encoding="utf-8"))["sha256"]
        hours = training_hours(home)
        about = {"name": target.name, "dtype": dtype, "rounding": rounding, "sha256": digest}
        about["command"] = shorten(trained.command)
        card = model_card(saved, results, analysis, hours=hours, notes=notes, **about)
        write_text(folder / CARD, card)
        size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{target}: {len(rounded)} arrays, {size / 1e6:.1f} MB, {said}"


def compare_readings(source: Path, rounded: Path, check: str) -> tuple[str, str]:
    """The type that the weights can be kept in, and what shows it.

    Returns:
      "float16" if all images are read alike, else "float32"; and a sentence for the user.

    Raises:
      ValueError: the images cannot be opened, or none of them can be read.
    """
    before, after = (read_all(Recognizer.from_checkpoint(f), check) for f in (source, rounded))
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    if not before:
        raise ValueError(f"--check={check} holds no image that can be read: give others")
    said = f"of {len(before)} images of {shorten(check)}"
    if not changed:
        return "float16", f"float16: none {said} is read otherwise"
    shown = ", ".join(f"{a!r} as {b!r}" for a, b in changed[:5])
    return "float32", f"float32: in float16 {len(changed)} {said} are read otherwise ({shown})"


def read_all(recognizer: Recognizer, spec: str) -> list[str]:
    """The text of every usable image of a finite source."""
    texts: list[str] = []
    size = recognizer.encoder.image_size
    source = open_source(spec, labels=False)
    with eval_batches(source, batch_size=_BATCH, image_size=size) as batches:
        for batch in batches:
            words = zip(recognizer.reader(batch["image"]), batch["valid"], strict=True)
            texts += [word.text for word, valid in words if valid]
    return texts


def shorten(text: str) -> str:
    """The same text without the folders of this machine: of an absolute path the last part, or what
    follows the checkout."""

    def own(path: re.Match[str]) -> str:
        parts = path[0].split("/")
        starts = [parts.index(room) for room in ("launch", "configs") if room in parts]
        return "/".join(parts[min(starts, default=-1) :])

    return re.sub(r"(?<![\w.~])/[^\s'\",:()]+[^\s'\",:()/]", own, text)


def without_places(saved: SavedRecognizer) -> SavedRecognizer:
    """The same with nothing in its description that only the machine of its training knows."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: clean(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [clean(inner) for inner in value]
        return shorten(value) if isinstance(value, str) else value

    description = {name: clean(value) for name, value in saved.description.items() if name != "run"}
    return dataclasses.replace(saved, description=description)


def training_hours(workdir: Path) -> float | None:
    """Hours that the steps of a run took over all its interruptions; None where that is unknown."""
    path = workdir / "speed.jsonl"
    if not path.is_file():
        return None
    seconds, before = 0.0, 0
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        seconds += max(0, line["step"] - before) / line["speed/steps_per_second"]
        before = max(before, line["step"])
    return seconds / 3600


def model_card(
    saved: SavedRecognizer,
    results: Evaluation,
    analysis: Analysis | None,
    *,
    hours: float | None,
    notes: str,
    **about: str,
) -> str:
    """README.md of the folder, every figure of it from the run's own files.

    Args:
      saved: the recogniser.
      results: of its evaluation.
      analysis: intervals and errors, None without.
      hours: of training.
      notes: on the data.
      **about: `name`, `command`, `dtype`, `rounding`, `sha256`.
    """
    model, decoder = model_plan(saved.model), saved.decoder
    numbers = sum(a.size for name, a in saved.arrays.items() if "batch_stats" not in name)
    train, (height, width) = saved.description["train"], model.image_size
    spent = "not recorded" if hours is None else f"{hours:.1f}"
    rows = [
        ("training", ""),
        ("protocol", f"{saved.description['protocol']}, {saved.description['initialisation']}"),
        ("labelled words", f"{train['labels']['trained_on']:,}"),
        ("steps", f"{saved.description['steps']:,} of {train['steps']:,}"),
        ("words per step", str(train["batch_size"])),
        ("seed", str(saved.description["seed"])),
        ("hours", spent),
        ("code", saved.code),
        ("command", f"`{about['command']}`"),
    ]
    text = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    return Template(text).substitute(
        about,
        height=height,
        width=width,
        summary=f"Reads a cropped word: encoder {model.encoder}, decoder {decoder['name']},"
        f" {numbers:,} parameters, {len(decoder['characters'])} characters.",
        scores=markdown_table(list(score_rows(results, analysis))),
        scored=f"Case policy `{results.policy}`: {POLICIES[results.policy]}. Brackets: 95 %"
        " intervals, bootstrap over words.",
        training=markdown_table(rows),
        data=", ".join(f"`{source}`" for source in train["source"]),
        notes=notes.strip() or "The run says nothing about their licences.",
        limits="\n".join(limits(saved, results, analysis)),
    )


def score_rows(results: Evaluation, analysis: Analysis | None) -> Iterable[tuple[str, ...]]:
    """Header and a row per set, with intervals."""
    yield "set", "words", "right", "word accuracy %", "", "1-NED %", ""
    intervals = analysis.intervals if analysis else {}
    for name, score in [*((e.name, e) for e in results.sets), ("all", results.weighted_mean)]:
        found = intervals.get("weighted_mean" if name == "all" else name, {})
        known = [bounds(found.get(m, (None, None))) for m in ("word_accuracy", "one_minus_ned")]
        rates = (show(score.word_accuracy), known[0], show(score.one_minus_ned), known[1])
        yield name, str(score.num_words), str(score.num_correct), *rates


def limits(saved: SavedRecognizer, results: Evaluation, analysis: Analysis | None) -> Iterable[str]:
    """What is beyond the recogniser: by construction, then as measured."""
    model, decoder = model_plan(saved.model), saved.decoder
    characters = Charset(decoder["characters"]).characters
    yield f"- Any character but `` {characters} `` and space."
    if not any(character.isupper() for character in characters):
        yield "- Case: everything is read as lower case."
    yield (
        f"- More than one line, vertical text, a whole photograph: an image is squeezed to"
        f" {model.image_size[1]} x {model.image_size[0]} pixels and {model.frames} frames."
    )
    yield f"- Words above {decoder['max_length']} characters, which it was not trained on."
    outside = results.labels_outside_charset
    if outside:
        yield f"- {outside} of the scored words, which hold other characters."
    if analysis is None:
        return
    yield f"\nWords by their length ({LONGEST_ROW}: and longer):\n"
    yield markdown_table(group_rows("characters", analysis.by_length))
    if analysis.confusions:
        shown = (
            f"{c.label or 'nothing'} as {c.prediction or 'nothing'} ({c.count})"
            for c in analysis.confusions[:CONFUSIONS_SHOWN]
        )
        yield f"\nMost frequent errors: `{'`, `'.join(shown)}`."
