"""Charts as SVG, drawn in the page's own colours: lines over steps, bars, points."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from rcmstr_jax.reporting.elements import text
from rcmstr_jax.runtime.curves import moving_average

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
COLOURS = 8
POINTS = 240


@dataclasses.dataclass(frozen=True)
class Series:
    """A named line: `colour` counts the runs, so that a run looks alike in every chart."""

    name: str
    colour: int
    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover a range; `[low]` where it is empty."""
    from matplotlib.ticker import MaxNLocator  # slow to import

    if not high > low:
        return [low]
    slack = 1e-9 * (high - low)
    found = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [round(float(tick), 12) for tick in found if low - slack <= tick <= high + slack]


def short(value: float) -> str:
    """A tick's label: 1200 -> 1.2k."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.3g}"


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where data lies in a chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a point in the drawing."""
        across = np.interp(x, self.x, (_LEFT, WIDTH - _RIGHT))
        up = np.interp(y, self.y, (HEIGHT - _BOTTOM, _TOP))
        return round(float(across), 1), round(float(up), 1)

    def axes(self) -> str:
        """Grid lines and their numbers."""
        parts = []
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
                f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5}" text-anchor="end">'
                f"{short(value)}</text>"
            )
        for value in ticks(*self.x):
            x, _ = self.at(value, self.y[0])
            parts.append(
                f'<text class="tick" x="{x}" y="{HEIGHT - 7}" text-anchor="middle">'
                f"{short(value)}</text>"
            )
        return "".join(parts)


def _chart(title: str, parts: Sequence[str], kind: str = "chart", *, height: int = HEIGHT) -> str:
    """A drawing that takes the width of its column, with the title as its caption."""
    return (
        f'<figure class="{kind}"><figcaption>{text(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _line(colour: int, points: Iterable[tuple[float, float]], tip: str) -> str:
    """A line in the colour of a run, with what is shown when it is pointed at."""
    path = " ".join(f"{x},{y}" for x, y in points)
    name = f'class="line c{colour % COLOURS}"'
    return f'<polyline {name} points="{path}"><title>{text(tip)}</title></polyline>'


def _dot(colour: int, at: tuple[float, float], radius: float, tip: str, kind: str = "dot") -> str:
    name, place = f'class="{kind} c{colour % COLOURS}"', f'cx="{at[0]}" cy="{at[1]}"'
    return f'<circle {name} {place} r="{radius:g}"><title>{text(tip)}</title></circle>'


def _thinned(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Long curves as a moving average of fewer points, the last one among them."""
    if len(series.x) <= POINTS:
        return series.x, series.y
    window = -(-len(series.x) // POINTS)
    smooth = moving_average(series.y, window)
    rows = np.unique(np.r_[0 : len(series.x) : window, len(series.x) - 1])
    return series.x[rows], smooth[rows]


def line_chart(title: str, lines: Sequence[Series]) -> str:
    """Lines over a common x axis, with the title as its caption."""
    drawn = [(series, *_thinned(series)) for series in lines if len(series.x)]
    if not drawn:
        raise ValueError(f"chart {title!r} has no points")
    xs, ys = (np.concatenate([part[i] for part in drawn]) for i in (1, 2))
    frame = Frame((float(xs.min()), float(xs.max())), (float(ys.min()), float(ys.max())))
    parts = [frame.axes()]
    for series, x, y in drawn:
        points = [frame.at(a, b) for a, b in zip(x, y, strict=True)]
        parts.append(
            _line(series.colour, points, series.name)
            if len(points) > 1
            else _dot(series.colour, points[0], 3, series.name)
        )
    return _chart(title, parts)


def legend_of(runs: Sequence[tuple[str, int]]) -> str:
    """(name, colour) of the runs, as names beside their colours."""
    items = (
        f'<li><span class="key c{colour % COLOURS}"></span>{text(name)}</li>'
        for name, colour in runs
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def reliability_chart(
    title: str, runs: Sequence[tuple[int, Sequence[tuple[float, float, int]]]]
) -> str:
    """Accuracy over confidence, both in %; the diagonal is perfect calibration.

    Args:
      title: caption.
      runs: (colour, [(confidence, accuracy, words)]) for each run; the area of a point grows with
        its words.
    """
    frame = Frame((0.0, 100.0), (0.0, 100.0))
    (x1, y1), (x2, y2) = frame.at(0, 0), frame.at(100, 100)
    parts = [frame.axes(), f'<line class="rule" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>']
    for colour, bins in runs:
        places = [frame.at(confidence, accuracy) for confidence, accuracy, _ in bins]
        total = sum(words for *_, words in bins)
        parts.append(_line(colour, places, f"{total} words"))
        for place, (*_, words) in zip(places, bins, strict=True):
            radius = round(2 + 8 * math.sqrt(words / total), 1)
            parts.append(_dot(colour, place, radius, f"{words} words", "dot soft"))
    return _chart(title, parts)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A value and its interval; `colour` as in `Series`, `tip` is what pointing at it shows."""

    colour: int
    value: float
    low: float
    high: float
    tip: str


def interval_chart(title: str, rows: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Bars below each other, under the name of their row, from 0 to what the longest needs."""
    top = max(bar.high for _, bars in rows for bar in bars)
    frame = Frame((0.0, max(top, 1.0)), (0.0, 1.0))
    parts: list[str] = []
    y = 4
    for name, bars in rows:
        y += 14
        parts.append(f'<text class="tick" x="{_LEFT}" y="{y - 3}">{text(name)}</text>')
        for bar in bars:
            low, value, high = (frame.at(x, 0)[0] for x in (bar.low, bar.value, bar.high))
            parts.append(_line(bar.colour, [(low, y + 4), (high, y + 4)], bar.tip))
            parts.append(_dot(bar.colour, (value, y + 4), 3.2, bar.tip))
            said = f'class="tick" x="{_LEFT - 6}" y="{y + 7}" text-anchor="end"'
            parts.append(f"<text {said}>{bar.value:.1f}</text>")
            y += 11
        y += 5
    for tick in ticks(*frame.x):
        x, _ = frame.at(tick, 0)
        parts.insert(0, f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{y}"/>')
        place = f'class="tick" x="{x}" y="{y + 13}" text-anchor="middle"'
        parts.append(f"<text {place}>{short(tick)}</text>")
    return _chart(title, parts, "chart half", height=y + 20)


def glyph_map(title: str, points: Float[np.ndarray, "points 2"], glyphs: Sequence[str]) -> str:
    """Characters at their places, one hue for each kind."""
    low, high = points.min(0), points.max(0)
    frame = Frame((float(low[0]), float(high[0])), (float(low[1]), float(high[1])))
    hues = {glyph: round(360 * i / len(set(glyphs))) for i, glyph in enumerate(sorted(set(glyphs)))}
    marks = []
    for (a, b), glyph in zip(points, glyphs, strict=True):
        x, y = frame.at(float(a), float(b))
        marks.append(f'<text x="{x}" y="{y}" style="--h:{hues[glyph]}">{text(glyph)}</text>')
    return _chart(title, ['<g class="glyphs">', *marks, "</g>"], "chart wide")
