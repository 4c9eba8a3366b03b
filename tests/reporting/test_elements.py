"""Tables, pictures and charts of a page."""

from __future__ import annotations

import base64
import csv
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.reporting import charts
from rcmstr_jax.reporting.elements import Section, Table, picture, text

NASTY = '<script>alert("1")</script> & 50_% of {a} | b, "c"'
TABLE = Table(NASTY, [("set", NASTY), ("S", "1.00 ± 0.50"), ("T", "–")], [NASTY])


def test_nothing_of_a_label_becomes_markup() -> None:
    html = TABLE.html() + Section(NASTY, "", [NASTY]).html()
    assert "<script" not in html and "alert(&quot;1&quot;)" in html
    # What can be pasted is there as it is, once unescaped by the browser.
    root = ElementTree.fromstring(f"<div>{html.replace('tabindex', 'data-t')}</div>")
    markdown, latex, comma = ("".join(pre.itertext()) for pre in root.iter("pre"))
    assert markdown.splitlines()[0].count("|") == 4 and "\\|" in markdown
    assert latex == TABLE.latex() and comma == TABLE.csv()


def test_latex_and_csv() -> None:
    latex = TABLE.latex()
    assert latex.startswith("\\begin{tabular}{lr}\n\\toprule\n") and latex.endswith(
        "\\end{tabular}"
    )
    assert r"\& 50\_\% of \{a\}" in latex and r"S & 1.00 $\pm$ 0.50 \\" in latex
    assert r"T & -- \\" in latex
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [list(row) for row in TABLE.rows]


def test_picture_holds_its_pixels() -> None:
    pixels = np.zeros((32, 100, 3), np.uint8)
    pixels[:, 50:] = 200
    html = picture(pixels, 'a "b"')
    assert 'alt="a &quot;b&quot;"' in html and 'width="100" height="32"' in html
    match = re.search(r"base64,([^\"]+)", html)
    assert match is not None
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))).convert("RGB"))
    assert decoded.shape == pixels.shape and np.abs(decoded.astype(int) - pixels).mean() < 5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 25, 50, 75, 100]),
        (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0]),
        (-3, 7, [-2.5, 0, 2.5, 5]),
        (2, 2, [2]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_line_chart_draws_every_value_in_its_place() -> None:
    line = charts.Series(NASTY, 9, np.array([0.0, 10.0]), np.array([1.0, 3.0]))
    html = charts.line_chart("loss", [line])
    match = re.search(r'class="line c1" points="([^"]+)"', html)  # colours repeat after eight
    assert match is not None
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in match[1].split())
    assert x0 < x1 and y0 > y1  # up is more
    assert text(NASTY) in html and "<script" not in html
    with pytest.raises(ValueError, match="'loss' has no points"):
        charts.line_chart("loss", [])


def test_long_curves_are_thinned_to_their_end() -> None:
    steps = np.arange(5000.0)
    html = charts.line_chart("x", [charts.Series("a", 0, steps, np.ones(5000))])
    match = re.search(r'points="([^"]+)"', html)
    assert match is not None
    points = match[1].split()
    assert 200 < len(points) <= 260
    assert float(points[-1].split(",")[0]) == charts.Frame((0, 4999), (1, 1)).at(4999, 1)[0]


def test_glyph_map_shows_every_point_once() -> None:
    html = charts.glyph_map("m", np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]), ["a", "<", "a"])
    glyphs = re.findall(r'style="--h:(\d+)">([^<]+)</text>', html)
    assert sorted(glyphs) == [("0", "&lt;"), ("180", "a"), ("180", "a")]
