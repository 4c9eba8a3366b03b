"""Sections of words: sheets of right and wrong ones, attention over the image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8
from rapidfuzz.distance import Levenshtein

from rcmstr_jax.data.benchmarks import open_benchmark
from rcmstr_jax.data.decode import decode_image
from rcmstr_jax.data.records import BadRecord, RecordSource
from rcmstr_jax.evaluation.results import Evaluation
from rcmstr_jax.metrics.intervals import Line, judge_lines
from rcmstr_jax.metrics.words import normalize_text
from rcmstr_jax.plotting.figures import save_words
from rcmstr_jax.recognition.attending import ATTENDING, read_and_attend
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import RECOGNIZER
from rcmstr_jax.reporting.elements import Section, captioned, gallery, paragraph, picture, text
from rcmstr_jax.reporting.runs import NO_EVALUATION, Run, evaluations, without
from rcmstr_jax.runtime.checkpoint import CheckpointError

SHEET_WORDS = 18
ATTENDED_WORDS = 6
_SIZE = (32, 100)


def spread(lines: Sequence[Line], count: int) -> list[Line]:
    """So many lines, evenly over the order of their confidences, the surest first."""
    ranked = sorted(lines, key=lambda line: -float(line.get("confidence") or 0.0))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def _shown(lines: Sequence[Line], count: int) -> list[Line]:
    """`spread` of those whose image could be read."""
    return spread([line for line in lines if line.get("readable", True)], count)


def sheets(runs: Sequence[Run], *, crops: bool) -> Section:
    """Right and wrong words of every evaluation, with the confidence of each.

    Args:
      runs: all runs of the page.
      crops: whether the scored images are shown, or their words alone.
    """
    parts: list[str] = []
    scored = evaluations(runs)
    missing = without("predictions.jsonl", [run.name for run, _ in scored if not run.lines])
    for run, results in scored:
        if not run.lines:
            continue
        policy = results.policy
        parts.append(f"<h3>{text(run.name)}</h3>")
        show, problems = _crops(run, results) if crops else (lambda line: None, [])
        missing += problems
        for title, found in _judged(run.lines, policy).items():
            shown = _shown(found, SHEET_WORDS)
            parts.append(paragraph(f"{len(found)} {title}, {len(shown)} of them:"))
            parts.append(gallery([_card(line, policy, show(line)) for line in shown]))
    if not crops and parts:
        parts.insert(0, paragraph("The images of the scored sets are not part of this page."))
    if not evaluations(runs):
        missing.append(NO_EVALUATION)
    return Section("Words read right and wrong", "".join(parts), missing)


def _judged(lines: Sequence[Line], policy: str) -> dict[str, list[Line]]:
    """The wrong and the right lines; those without a label that counts are neither."""
    judged = list(zip(lines, judge_lines(lines, policy), strict=True))
    return {
        title: [line for line, o in judged if o is not None and o.correct == wanted]
        for title, wanted in (("wrong", False), ("right", True))
    }


def draw_words(run: Run, path: str | Path, count: int = SHEET_WORDS) -> Path:
    """Scored words of an evaluation as a PNG file, right ones above wrong ones.

    Args:
      run: workdir of an evaluation that kept its predictions.
      path: PNG file; folders are made.
      count: at most so many of each kind, evenly over their confidences.

    Returns:
      The file.

    Raises:
      ValueError: nothing was scored there, or the images are gone.
    """
    results = run.results
    if results is None or not run.lines:
        raise ValueError(f"{run.path} scored no words; give the workdir of an evaluation")
    show, problems = _crops(run, results)
    kinds = _judged(run.lines, results.policy)
    images, captions = [], []
    for title in ("right", "wrong"):
        for line in _shown(kinds[title], count):
            pixels = show(line)
            if pixels is not None:
                guess, label = _read_and_true(line, results.policy)
                images.append(pixels)
                captions.append((guess or "–", "" if title == "right" else label))
    if not images:
        raise ValueError(f"no image of {run.path} is to be had: {' '.join(problems)}")
    save_words(path, np.stack(images), captions)
    return Path(path)


def _read_and_true(line: Line, policy: str) -> tuple[str, str]:
    """What was read and what is written there, as the policy compares them."""
    said = line["prediction"] or "", line["label"] or ""
    guess, label = (normalize_text(word, policy) for word in said)
    return guess, label


def _crops(run: Run, results: Evaluation) -> tuple[Callable[[Line], np.ndarray | None], list[str]]:
    """A function from a line to its pixels, and the sets whose images are gone."""
    sources: dict[str, RecordSource] = {}
    problems = []
    for entry in results.sets:
        if not entry.num_words:
            continue
        try:
            sources[entry.name] = open_benchmark(entry.path)
        except ValueError as error:
            problems.append(f"images of {run.name}, {entry.name}: {error}.")

    def show(line: Line) -> np.ndarray | None:
        source = sources.get(line["set"])
        if source is None or line["index"] >= len(source):
            return None
        try:
            record = source[line["index"]]
            return decode_image(record.image, _SIZE, record.turn)
        except BadRecord:
            return None

    return show, problems


def _card(line: Line, policy: str, pixels: UInt8[np.ndarray, "height width 3"] | None) -> str:
    confidence = line.get("confidence")
    sure = "" if confidence is None else f" <span>{100 * float(confidence):.0f} %</span>"
    guess, label = _read_and_true(line, policy)
    kind = "right" if guess == label else "wrong"
    caption = f'<b class="{kind}">{marked(label, guess)}</b>{sure}'
    if guess != label:
        caption += f"<br><span>is {text(label)}</span>"
    return captioned("" if pixels is None else picture(pixels, line["label"] or ""), caption)


def marked(label: str, guess: str) -> str:
    """The prediction as HTML, characters that are not the label's marked; – for an empty one."""
    wrong = {edit.dest_pos for edit in Levenshtein.editops(label, guess) if edit.tag != "delete"}
    parts = [f"<mark>{text(c)}</mark>" if i in wrong else text(c) for i, c in enumerate(guess)]
    return "".join(parts) or "–"


def attending(runs: Sequence[Run]) -> tuple[dict[str, Recognizer], list[str]]:
    """The saved recognisers whose decoders attend, by their runs' names; and why others are not."""
    found: dict[str, Recognizer] = {}
    missing, others, unsaved = [], [], []
    for run, results in evaluations(runs):
        if results.decoder not in ATTENDING:
            others.append(run.name)
        elif not (run.path / RECOGNIZER).is_dir():
            unsaved.append(run.name)
        else:
            try:
                found[run.name] = Recognizer.from_checkpoint(run.path)
            except (CheckpointError, ValueError) as error:
                missing.append(f"{run.name}: {error}.")
    missing += without("decoder that attends", others) + without("saved recogniser", unsaved)
    if not evaluations(runs):
        missing.append(NO_EVALUATION)
    return found, missing


def attention(
    recognizers: Mapping[str, Recognizer],
    images: Mapping[tuple[int, int], UInt8[np.ndarray, "n h w 3"]],
    missing: Sequence[str],
) -> Section:
    """What decoders look at for each character they write.

    Args:
      recognizers: from `attending`.
      images: words to look at, by the image size that they have been decoded to.
      missing: what is left out, and why.
    """
    parts = []
    for name, recognizer in recognizers.items():
        words = images.get(recognizer.encoder.image_size)
        if words is not None:
            shown = words[:ATTENDED_WORDS]
            strips = attention_strips(shown, *attention_weights(recognizer, shown))
            parts.append(f"<h3>{text(name)}</h3>{gallery(strips, 'strips')}")
    if parts:
        parts.append(
            paragraph(
                "Each copy of a word is lit where its character was read from; of a transformer, in"
                " the mean over blocks and heads."
            )
        )
    return Section("Attention over the image", "".join(parts), missing)


def attention_weights(
    recognizer: Recognizer, images: UInt8[np.ndarray, "words height width 3"]
) -> tuple[list[str], Float[np.ndarray, "words steps frames"]]:
    """Texts as they are read, and for each step the weights over the frames (they sum to 1)."""
    read = jax.jit(functools.partial(read_and_attend, recognizer))
    reading, weights = read(recognizer.weights, images)
    return [word.text for word in recognizer.head.words(reading)], np.asarray(weights)


def attention_strips(
    images: UInt8[np.ndarray, "words height width 3"],
    words: Sequence[str],
    weights: Float[np.ndarray, "words steps frames"],
) -> list[str]:
    """One strip per word: the word, then a lit copy for every character."""
    strips = []
    for image, word, steps in zip(images, words, weights, strict=True):
        cells = [captioned(picture(image, word), f"<b>{text(word) or '–'}</b>")]
        cells += [
            captioned(picture(lit(image, row), f"attention of {c}"), text(c))
            for c, row in zip(word, steps, strict=False)
        ]
        strips.append(gallery(cells, "strip"))
    return strips


def lit(
    image: UInt8[np.ndarray, "height width 3"], weights: Float[np.ndarray, " frames"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The image, dark where the weights are small; the largest weight leaves it as it is."""
    width = image.shape[1]
    centres = (np.arange(len(weights)) + 0.5) * width / len(weights)
    light = np.interp(np.arange(width) + 0.5, centres, weights / max(float(weights.max()), 1e-9))
    return np.rint(image * (0.15 + 0.85 * light[None, :, None])).astype(np.uint8)
