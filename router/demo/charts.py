"""The page's charts: data in, inline SVG out. Colours and fonts come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from router.demo.result import DemoRow
from router.demo.simulation import success_probability
from router.money import NANO_PER_USD, format_usd
from router.types import TIERS

BINS = 5  # of difficulty, 0 to 1
SMALL_WIDTH = 344


def ticks(top: float, count: int = 5) -> list[float]:
    """Return round values from 0 to at least `top`, about `count` steps of 1, 2 or 5 × 10ⁿ."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


class _Frame:
    """A plotting area within an SVG: maps data to pixels, and draws axes and their labels."""

    def __init__(
        self, width: int, height: int, x_top: float, y_ticks: Sequence[float], right: int = 12
    ) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 44, width - right, 14, height - 38
        self.x_top, self.y_ticks = x_top or 1.0, y_ticks
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * value / self.x_top

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.y_ticks[-1]

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

    def y_axis(self, labels: Sequence[str]) -> None:
        for value, label in zip(self.y_ticks, labels, strict=True):
            kind = "axis" if value == 0 else "grid"
            self.line(self.left, self.y(value), self.right, self.y(value), kind)
            self.text(self.left - 7, self.y(value) + 3.5, label, "tick", "end")

    def x_axis(self, values: Sequence[float], labels: Sequence[str], title: str) -> None:
        for value, label in zip(values, labels, strict=True):
            self.text(self.x(value), self.bottom + 15, label, "tick", "middle")
        self.text((self.left + self.right) / 2, self.height - 5, title, "label", "middle")

    def svg(self, title: str) -> str:
        return (
            f'<svg role="img" viewBox="0 0 {self.width} {self.height}" '
            f'aria-label="{escape(title, quote=True)}">{"".join(self.parts)}</svg>'
        )


def _percent_axis(frame: _Frame) -> None:
    frame.y_axis([f"{value:.0%}" for value in frame.y_ticks])


def spend_chart(rows: Sequence[DemoRow], limit: int) -> str:
    """Draw cumulative spend over requests, against the baseline and the budget's limit."""
    spent, baseline = [(0.0, 0.0)], [(0.0, 0.0)]
    for number, row in enumerate(rows, start=1):
        spent.append((number, spent[-1][1] + row.cost / NANO_PER_USD))
        baseline.append((number, baseline[-1][1] + row.baseline / NANO_PER_USD))
    limit_usd = limit / NANO_PER_USD
    y_ticks = ticks(max(spent[-1][1], baseline[-1][1], limit_usd))
    frame = _Frame(720, 300, len(rows), y_ticks, right=118)
    places = max(0, -math.floor(math.log10(y_ticks[1])))
    frame.y_axis([f"${value:.{places}f}" for value in y_ticks])
    x_ticks = [value for value in ticks(len(rows)) if value <= len(rows)]
    frame.x_axis(x_ticks, [f"{value:.0f}" for value in x_ticks], "requests ended")
    frame.line(frame.left, frame.y(limit_usd), frame.right, frame.y(limit_usd), "limit")
    frame.text(
        frame.left + 6,
        frame.y(limit_usd) - 6,
        f"hard budget {format_usd(limit)}",
        "label limit-text",
    )
    frame.path(baseline, "baseline")
    frame.path(spent, "spent")
    for points, name, kind in (
        (baseline, "always frontier", "label"),
        (spent, "realised", "label strong"),
    ):
        x, y = frame.right + 8, frame.y(points[-1][1])
        frame.text(x, y - 1, name, kind)
        frame.text(x, y + 13, format_usd(round(points[-1][1] * NANO_PER_USD)), kind)
    return frame.svg("Cumulative spend over requests: realised, always frontier, and the budget")


def _bins(rows: Sequence[DemoRow]) -> list[list[DemoRow]]:
    bins: list[list[DemoRow]] = [[] for _ in range(BINS)]
    for row in rows:
        bins[min(BINS - 1, int(row.difficulty * BINS))].append(row)
    return bins


def mix_chart(rows: Sequence[DemoRow]) -> str:
    """Draw which tiers answered the prompts of each range of difficulty, as stacked shares."""
    frame = _Frame(SMALL_WIDTH, 250, BINS, [0, 0.25, 0.5, 0.75, 1])
    _percent_axis(frame)
    for number, members in enumerate(_bins(rows)):
        base = 0.0
        x, width = frame.x(number + 0.14), frame.x(0.72) - frame.x(0)
        for tier in TIERS:
            count = sum(row.tier == tier for row in members)
            if count:
                share = count / len(members)
                top, bottom = frame.y(base + share), frame.y(base)
                note = f"{tier}: {count} of {len(members)}"
                frame.rect(x, top, width, max(0.5, bottom - top - 1), f"fill-{tier}", note)
                base += share
    edges = [f"{i / BINS:.1f}" for i in range(BINS + 1)]
    frame.x_axis(list(range(BINS + 1)), edges, "difficulty of the prompt")
    return frame.svg("Share of requests that each tier answered, by difficulty of the prompt")


def quality_chart(rows: Sequence[DemoRow]) -> str:
    """Draw good answers against difficulty: the fitted curves, and this run's shares as dots."""
    frame = _Frame(SMALL_WIDTH, 250, 1.0, [0, 0.25, 0.5, 0.75, 1])
    _percent_axis(frame)
    steps = [i / 40 for i in range(41)]
    for tier in TIERS:
        frame.path([(x, success_probability(tier, x)) for x in steps], f"curve line-{tier}")
    for members in _bins([row for row in rows if row.good is not None]):
        for tier in TIERS:
            own = [row for row in members if row.tier == tier]
            if own:
                x = sum(row.difficulty for row in own) / len(own)
                share = sum(bool(row.good) for row in own) / len(own)
                radius = 2 + min(7.0, 0.9 * math.sqrt(len(own)))
                note = f"{tier}: {share:.0%} of {len(own)} judged good"
                frame.parts.append(
                    f'<circle class="dot fill-{tier}" cx="{frame.x(x):.1f}" '
                    f'cy="{frame.y(share):.1f}" r="{radius:.1f}"><title>{note}</title></circle>'
                )
    edges = [i / BINS for i in range(BINS + 1)]
    frame.x_axis(edges, [f"{x:.1f}" for x in edges], "difficulty of the prompt")
    return frame.svg("Share of good answers against difficulty, by tier")


def bar(share: float, kind: str) -> str:
    """Return a small horizontal bar for a table cell; `share` 0 to 1."""
    width = 0 if share <= 0 else max(1.0, 120 * share)
    return (
        '<svg class="bar" viewBox="0 0 120 10" aria-hidden="true">'
        f'<rect class="track" width="120" height="10" rx="2"/>'
        f'<rect class="{kind}" width="{width:.1f}" height="10" rx="2"/></svg>'
    )
