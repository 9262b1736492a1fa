"""The page's charts: data in, inline SVG out. Colours and fonts come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.demo.result import DemoRow
from router.demo.simulation import success_probability
from router.money import NANO_PER_USD, format_usd
from router.replay.report.drawing import Frame, percent_axis, ticks, usd_labels
from router.types import TIERS

BINS = 5  # of difficulty, 0 to 1
SMALL_WIDTH = 344


def spend_chart(rows: Sequence[DemoRow], limit: int) -> str:
    """Draw cumulative spend over requests, against the baseline and the budget's limit."""
    spent, baseline = [(0.0, 0.0)], [(0.0, 0.0)]
    for number, row in enumerate(rows, start=1):
        spent.append((number, spent[-1][1] + row.cost / NANO_PER_USD))
        baseline.append((number, baseline[-1][1] + row.baseline / NANO_PER_USD))
    limit_usd = limit / NANO_PER_USD
    y_ticks = ticks(max(spent[-1][1], baseline[-1][1], limit_usd))
    frame = Frame(720, 300, len(rows), y_ticks, right=118)
    frame.y_axis(usd_labels(y_ticks))
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
    frame = Frame(SMALL_WIDTH, 250, BINS, [0, 0.25, 0.5, 0.75, 1])
    percent_axis(frame)
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
    frame = Frame(SMALL_WIDTH, 250, 1.0, [0, 0.25, 0.5, 0.75, 1])
    percent_axis(frame)
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
                frame.dot(x, share, radius, f"fill-{tier}", note)
    edges = [i / BINS for i in range(BINS + 1)]
    frame.x_axis(edges, [f"{x:.1f}" for x in edges], "difficulty of the prompt")
    return frame.svg("Share of good answers against difficulty, by tier")
