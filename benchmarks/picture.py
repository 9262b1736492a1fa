"""The README's picture, drawn from results that are committed: what the same quality costs.

    python benchmarks/picture.py

Reads results/routing_quality.json and results/cascade.json, and writes results/cost_at_quality.svg.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS / "cost_at_quality.svg"
SOURCES = {
    "mmlu_pro_a": "exam questions, 6,797 (mmlu_pro_a)",
    "zeroeval": "logic, mathematics, code, 2,840 (zeroeval)",
}
QUALITIES = {"1.00": "at the frontier's quality", "0.98": "at 98% of it"}
ROW, NAMES, PLOT, GAP, TOP = 26, 250, 340, 72, 84  # pixels
INK, MUTED, GRID, OURS, OTHERS = "#1f2933", "#52606d", "#e4e7eb", "#1264d6", "#9aa5b1"


class Bar(NamedTuple):
    """A cost in percent of always-frontier's, None where it is never reached, and its interval."""

    name: str
    cost: float | None
    interval: tuple[float, float | None] | None = None
    ours: bool = False


def bars(source: str, quality: str) -> list[Bar]:
    """What each way costs at a quality."""
    alone, looking = _results("routing_quality")[source], _results("cascade")[source]
    others = {"random_mix": "best random mix of models", "length": "by length alone",
              "knn": "nearest neighbours"}  # fmt: skip
    steps = looking["up_to_3_calls"]
    return [
        *(
            Bar(name, alone["comparisons"][key]["cost_pct_at_quality"][quality])
            for key, name in others.items()
        ),
        Bar("tiered-router, before the call", alone["cost_pct_at_quality"][quality],
            alone["intervals"]["cost_pct_at_quality"][quality], ours=True),
        Bar("and looking at answers, 3 calls", steps["cost_pct_at_quality"][quality],
            steps["intervals"]["cost_pct_at_quality"][quality], ours=True),
    ]  # fmt: skip


def _results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def picture() -> str:
    """The picture as SVG."""
    parts, height = [], 0
    for column, quality in enumerate(QUALITIES):
        left, y = NAMES + column * (PLOT + GAP), TOP
        parts.append(_text(left, 56, QUALITIES[quality], "start", INK, bold=True))
        for source, title in SOURCES.items():
            if column == 0:
                parts.append(_text(16, y - 8, title, "start", MUTED))
            for bar in bars(source, quality):
                parts += _row(bar, left, y, named=column == 0)
                y += ROW
            parts.append(_axis(left, y))
            y += 48
        height = y - 24
    width = NAMES + 2 * PLOT + GAP + 60
    title = "What the same quality costs, in percent of always asking the frontier model"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="13"><title>{title}</title>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f"{_text(16, 26, title, 'start', INK, bold=True)}{''.join(parts)}</svg>\n"
    )


def _row(bar: Bar, left: int, y: int, *, named: bool) -> list[str]:
    colour, middle = OURS if bar.ours else OTHERS, y + ROW / 2
    parts = [_text(NAMES - 10, middle + 4, bar.name, "end", INK)] if named else []
    if bar.cost is None:
        return [*parts, _text(left + 4, middle + 4, "never reached", "start", MUTED)]
    end = left + PLOT * bar.cost / 100
    parts.append(
        f'<rect x="{left}" y="{y + 5}" width="{end - left:.1f}" height="{ROW - 10}" '
        f'fill="{colour}"/>'
    )
    after = end
    if bar.interval is not None:
        low, high = bar.interval
        after = left + PLOT * (100.0 if high is None else high) / 100
        parts.append(
            f'<path d="M{left + PLOT * low / 100:.1f} {middle}H{after:.1f}" stroke="{INK}" '
            f'stroke-width="1.5"/>'
        )
    parts.append(_text(after + 6, middle + 4, f"{bar.cost:.3g}%", "start", INK))
    return parts


def _axis(left: int, y: int) -> str:
    ticks = "".join(
        f'<path d="M{left + PLOT * at / 100:.1f} {y}v4" stroke="{MUTED}"/>'
        + _text(left + PLOT * at / 100, y + 17, f"{at}%", "middle", MUTED)
        for at in (0, 25, 50, 75, 100)
    )
    return f'<path d="M{left} {y}h{PLOT}" stroke="{GRID}"/>{ticks}'


def _text(x: float, y: float, said: str, anchor: str, fill: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}"{weight}>'
        f"{escape(said)}</text>"
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
