"""What the pages share: axes and marks as inline SVG, and one style sheet. Nothing is fetched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files


@cache
def style() -> str:
    """The style sheet of every page: colours for light, dark and print, text, tables, charts."""
    return files("router.replay.report").joinpath("page.css").read_text(encoding="utf-8")


def ticks(top: float, count: int = 5) -> list[float]:
    """Return round values from 0 to at least `top`, about `count` steps of 1, 2 or 5 × 10ⁿ."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def ticks_between(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values from at most `low` to at least `high`, about `count` even steps."""
    step = ticks(max(high - low, 1e-9), count)[1]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def usd_labels(values: Sequence[float]) -> list[str]:
    """Return even steps of US dollars as text, with as many places as tell them apart."""
    places = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    return [f"${value:,.{places}f}" for value in values]


def room_for(labels: Sequence[str]) -> int:
    """Return the width in pixels that the labels of a y axis need left of it."""
    return max(44, 12 + 7 * max(len(label) for label in labels))


class Frame:
    """A plotting area within an SVG: maps data to pixels, and draws axes and their labels."""

    def __init__(
        self,
        width: int,
        height: int,
        x_top: float,
        y_ticks: Sequence[float],
        right: int = 12,
        left: int = 44,
    ) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = left, width - right, 14, height - 38
        self.x_top, self.y_ticks = x_top or 1.0, y_ticks
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * value / self.x_top

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        steps = " L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<path class="{kind}" d="M{steps}"/>')

    def rect(self, x: float, y: float, width: float, height: float, kind: str, note: str) -> None:
        self.parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"><title>{escape(note)}</title></rect>'
        )

    def dot(self, x: float, y: float, radius: float, kind: str, note: str) -> None:
        self.parts.append(
            f'<circle class="dot {kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" '
            f'r="{radius:.1f}"><title>{escape(note)}</title></circle>'
        )

    def y_axis(self, labels: Sequence[str]) -> None:
        for value, label in zip(self.y_ticks, labels, strict=True):
            kind = "axis" if value == self.y_ticks[0] else "grid"
            self.line(self.left, self.y(value), self.right, self.y(value), kind)
            self.text(self.left - 7, self.y(value) + 3.5, label, "tick", "end")

    def x_axis(self, values: Sequence[float], labels: Sequence[str], title: str) -> None:
        for value, label in zip(values, labels, strict=True):
            self.text(self.x(value), self.bottom + 18, label, "tick", "middle")
        self.text((self.left + self.right) / 2, self.height - 4, title, "label", "middle")

    def svg(self, title: str, description: str = "") -> str:
        """The chart, named for those who cannot see it, with what it shows in words."""
        described = f"<desc>{escape(description)}</desc>" if description else ""
        return (
            f'<svg role="img" viewBox="0 0 {self.width} {self.height}" '
            f'aria-label="{escape(title, quote=True)}"><title>{escape(title)}</title>{described}'
            f"{''.join(self.parts)}</svg>"
        )


def key(*entries: tuple[str, str]) -> str:
    """Return the key of a chart: pairs of a class and what is drawn in it."""
    marks = "".join(
        f'<span><svg viewBox="0 0 11 11" aria-hidden="true"><rect class="{kind}" width="11" '
        f'height="11" rx="2"/></svg>{escape(words)}</span>'
        for kind, words in entries
    )
    return f'<div class="key">{marks}</div>'


def percent_axis(frame: Frame) -> None:
    frame.y_axis([f"{value:.0%}" for value in frame.y_ticks])


def bar(share: float, kind: str) -> str:
    """Return a small horizontal bar for a table cell; `share` 0 to 1."""
    width = 0 if share <= 0 else max(1.0, 120 * share)
    return (
        '<svg class="bar" viewBox="0 0 120 10" aria-hidden="true">'
        f'<rect class="track" width="120" height="10" rx="2"/>'
        f'<rect class="{kind}" width="{width:.1f}" height="10" rx="2"/></svg>'
    )
