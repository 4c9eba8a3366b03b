"""Pieces of a page: escaped text, tables that can be pasted, pictures as data URIs, sections."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import io
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rcmstr_jax.metrics.tables import markdown_table

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
}
_QUALITY = 80


def text(value: object) -> str:
    """Escaped for HTML, in text and in quoted attributes."""
    return html.escape(str(value), quote=True)


def paragraph(*sentences: str, kind: str = "note") -> str:
    """Escaped sentences as one paragraph."""
    return f'<p class="{kind}">{text(" ".join(sentences))}</p>'


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, shown and in three forms to paste.

    Attributes:
      title: what it shows.
      rows: the header, then the rows; the first column holds names.
      notes: sentences that belong under it.
    """

    title: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def latex(self) -> str:
        """A LaTeX tabular with booktabs rules."""
        lines = [" & ".join(map(latex_text, row)) + r" \\" for row in self.rows]
        columns = "l" + "r" * (len(self.rows[0]) - 1)
        body = "\n".join(lines[1:])
        begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
        return f"{begin}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n\\bottomrule\n{end}"

    def csv(self) -> str:
        """Comma-separated values."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(self.rows)
        return buffer.getvalue()

    def html(self) -> str:
        """The table in a box that scrolls by itself, and what can be pasted, folded away."""
        header, *body = (
            "<tr>" + "".join(f"<{tag}>{text(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, row in zip(["th"] + ["td"] * len(self.rows), self.rows, strict=False)
        )
        forms = (
            ("Markdown", markdown_table(self.rows)),
            ("LaTeX", self.latex()),
            ("CSV", self.csv()),
        )
        copies = "".join(
            f'<div class="copy"><button type="button">Copy {name}</button>'
            f"<pre>{text(content)}</pre></div>"
            for name, content in forms
        )
        return (
            f'<figure class="table"><figcaption>{text(self.title)}</figcaption>'
            f'<div class="scroll" tabindex="0"><table><thead>{header}</thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
            + (paragraph(*self.notes) if self.notes else "")
            + f"{folded('Markdown, LaTeX, CSV', copies)}</figure>"
        )


def latex_text(value: str) -> str:
    """Escaped for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in value)


def picture(
    pixels: UInt8[np.ndarray, "height width 3"], description: str, kind: str = "word"
) -> str:
    """An image within the page, as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=_QUALITY, method=6)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return (
        f'<img class="{kind}" width="{width}" height="{height}" alt="{text(description)}"'
        f' src="data:image/webp;base64,{data}">'
    )


def gallery(figures: Sequence[str], kind: str = "gallery") -> str:
    """Figures that flow into as many columns as there is room for."""
    return f'<div class="{kind}">{"".join(figures)}</div>'


def folded(summary: str, content: str) -> str:
    """HTML that shows once its summary is opened."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def captioned(content: str, caption: str) -> str:
    """A figure; the caption is HTML."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      title: its heading.
      body: HTML; empty where there is nothing to show.
      left_out: why something is not shown, a sentence for each run concerned.
    """

    title: str
    body: str
    left_out: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        """The id of its heading."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def html(self) -> str:
        """The section, and what is missing from it."""
        missing = "".join(paragraph(f"Left out: {why}", kind="missing") for why in self.left_out)
        return (
            f'<section id="{self.anchor}"><h2>{text(self.title)}</h2>{self.body}{missing}</section>'
        )
