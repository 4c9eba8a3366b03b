"""Sections about a pretrained network: relations, neighbours, a map of characters, masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.evaluation.reconstruction import reconstruct_images
from rcmstr_jax.metrics.words import normalize_text
from rcmstr_jax.plotting.figures import hide_patches, to_pixels
from rcmstr_jax.reporting import charts
from rcmstr_jax.reporting import representation as rep
from rcmstr_jax.reporting.elements import (
    Section,
    Table,
    captioned,
    gallery,
    paragraph,
    picture,
    text,
)
from rcmstr_jax.reporting.representation import Embeddings, frame_of, nearest, unit

OTHERS, QUERIES, NEIGHBOURS = 4, 4, 6
MAPPED, MASKED, MASKED_SHOWN = 700, 32, 4
Pictures = Callable[[Embeddings], tuple[str, list[str]]]


def section(
    title: str, draw: Pictures, found: dict[str, Embeddings], lacking: list[str]
) -> Section:
    """A section with one part for every pretraining run.

    Args:
      title: its heading.
      draw: makes HTML and reasons for what is left out.
      found: embeddings by the run's name.
      lacking: why there are none for other runs.
    """
    parts, missing = [], list(lacking)
    for name, embeddings in found.items():
        body, reasons = draw(embeddings)
        missing += [f"{name}: {reason}" for reason in reasons]
        if body:
            words = embeddings.words
            unusable = f", {words.faults} unusable records left out" if words.faults else ""
            origin = paragraph(f"{len(words.images)} words of {words.name}{unusable}.")
            parts.append(f"<h3>{text(name)}</h3>{body}{origin}")
    return Section(title, "".join(parts), missing)


def query_words(embeddings: Embeddings, count: int) -> list[int]:
    """Words to look at: the first with four characters or more, or the first of all."""
    long = [i for i, word in enumerate(embeddings.words.texts) if len(word) >= 4]
    return (long or list(range(len(embeddings.words.texts))))[:count]


def outlined(
    image: UInt8[np.ndarray, "height width 3"], frame: int, frames: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The image, dimmed outside the columns of a frame (four on either side of its centre)."""
    centre = (frame + 0.5) * image.shape[1] / frames
    columns = np.abs(np.arange(image.shape[1]) + 0.5 - centre) <= 4
    return np.where(columns[None, :, None], image, image // 2)


def draw_relations(embeddings: Embeddings) -> tuple[str, list[str]]:
    """The paper's picture: one frame against the sub-words of its word and of others."""
    if not {"frame", "subword"} <= set(embeddings.levels):
        return "", ["it contrasts no frames with sub-words."]
    words, count = embeddings.words, embeddings.levels["frame"].shape[1]
    word = query_words(embeddings, 1)[0]
    others = [i for i in range(len(words.images)) if i != word][:OTHERS]
    frame = frame_of(1, max(len(words.texts[word]), 2), count)
    values = rep.relations(embeddings, word, frame, others)
    own = rep.holding_part(frame, count, values.shape[1])
    cells = []
    for index, row in zip([word, *others], values, strict=True):
        image = words.images[index]
        shown = outlined(image, frame, count) if index == word else image
        spans = "".join(
            f"<span{' class=own' if index == word and i == own else ''}"
            f' style="--s:{max(float(v), 0):.2f}">{v:.2f}</span>'
            for i, v in enumerate(row)
        )
        label = f"{text(words.texts[index])} <span>{'its word' if index == word else ''}</span>"
        parts = picture(shown, words.texts[index]) + f'<div class="parts">{spans}</div>'
        cells.append(captioned(parts, label))
    means = rep.relation_means(embeddings)
    table = Table(
        "Mean cosine similarity of a frame with",
        [("sub-words", "similarity"), *((name, f"{v:.3f}") for name, v in means.items())],
        ["Over all frames of all words; the other word is the next one in order."],
    )
    note = paragraph(
        "The lit frame's cosine similarity with each sub-word; outlined: the sub-word that holds"
        " it, its positive in pretraining."
    )
    return gallery(cells, "relation") + note + table.html(), []


def draw_neighbours(embeddings: Embeddings) -> tuple[str, list[str]]:
    """Nearest words of a word, and nearest frames of a frame, among all words."""
    words, frames = embeddings.words, embeddings.frames
    if len(words.images) <= NEIGHBOURS:
        return "", [f"{len(words.images)} words are too few for neighbours."]
    count = frames.shape[1]
    queries = query_words(embeddings, QUERIES)
    means = unit(frames.mean(1))
    places, similar = nearest(means[queries], means, NEIGHBOURS, [[q] for q in queries])
    strips = [_strip(embeddings, q, p, s) for q, p, s in zip(queries, places, similar, strict=True)]
    by_word = gallery(strips, "strips")
    flat = unit(frames).reshape(-1, frames.shape[-1])
    at = [frame_of(1, max(len(words.texts[q]), 2), count) for q in queries]
    rows = [q * count + f for q, f in zip(queries, at, strict=True)]
    own = [range(q * count, (q + 1) * count) for q in queries]
    places, similar = nearest(flat[rows], flat, NEIGHBOURS, own)
    strips = [
        _strip(embeddings, q, p // count, s, [f, *(p % count)])
        for q, f, p, s in zip(queries, at, places, similar, strict=True)
    ]
    by_frame = gallery(strips, "strips")
    note = paragraph("Cosine similarity of centred encoder frames. The query is first.")
    titles = ("Words by the mean of their frames", "Frames, without those of the same word")
    return f"<h4>{titles[0]}</h4>{by_word}<h4>{titles[1]}</h4>{by_frame}{note}", []


def _strip(
    embeddings: Embeddings,
    query: int,
    places: Sequence[int],
    similar: Sequence[float],
    frames: Sequence[int] | None = None,
) -> str:
    words, count = embeddings.words, embeddings.frames.shape[1]
    cells = []
    for number, index in enumerate([query, *places]):
        image = words.images[index]
        image = image if frames is None else outlined(image, int(frames[number]), count)
        kind = "word query" if number == 0 else "word"
        sure = "" if number == 0 else f" <span>{similar[number - 1]:.2f}</span>"
        label = words.texts[index]
        cells.append(captioned(picture(image, label, kind), f"{text(label)}{sure}"))
    return gallery(cells, "strip")


def draw_map(embeddings: Embeddings) -> tuple[str, list[str]]:
    """Frames at the centres of characters, in their principal plane, each as its character."""
    points, glyphs = [], []
    for frames, label in zip(embeddings.frames, embeddings.words.texts, strict=True):
        word = normalize_text(label)
        for place, character in enumerate(word):
            points.append(frames[frame_of(place, len(word), len(frames))])
            glyphs.append(character)
    if len(set(glyphs)) < 2 or len(points) < 3:
        return "", ["its words have no labels to colour the map by."]
    points, glyphs = points[:MAPPED], glyphs[:MAPPED]
    at = np.array(points)
    plane, shares = rep.principal_plane(at)
    vectors = unit(at)
    places, _ = nearest(vectors, vectors, 1, [[i] for i in range(len(vectors))])
    rate = np.mean([glyphs[p] == g for (p,), g in zip(places, glyphs, strict=True)])
    chance = sum((glyphs.count(g) / len(glyphs)) ** 2 for g in set(glyphs))
    first, second = (100 * float(share) for share in shares)
    note = paragraph(
        f"{len(points)} frames at the centres of characters, characters taken to be equally wide."
        f" The plane holds {first:.1f} % + {second:.1f} % of the variance. In all dimensions, the"
        f" nearest frame stands for the same character in {100 * rate:.1f} % of cases (by chance"
        f" {100 * chance:.1f} %)."
    )
    return charts.glyph_map("Principal plane of the frames", plane, glyphs) + note, []


def draw_masks(embeddings: Embeddings) -> tuple[str, list[str]]:
    """Words, what a mask leaves of them, and what the network makes of that."""
    if embeddings.plan.mask is None:
        return "", ["pretrained without masked image modelling."]
    images = embeddings.words.images[:MASKED]
    made = reconstruct_images(embeddings.plan, embeddings.variables, images, seed=0)
    hidden = hide_patches(made["target"], made["mask"])
    rows = [("mask", hidden), ("reconstruction", made["reconstruction"]), ("word", made["target"])]
    columns = []
    for i in range(min(MASKED_SHOWN, len(images))):
        label = embeddings.words.texts[i]
        cells = [
            captioned(picture(to_pixels(batch[i]), f"{name} of {label}"), text(name))
            for name, batch in rows
        ]
        columns.append(gallery(cells, "trio"))
    note = paragraph(
        "Hidden patches take the mean and deviation of the true ones, which the network never saw."
    )
    return gallery(columns, "trios") + note, []
