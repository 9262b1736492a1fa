"""The charts of a savings report: records in, inline SVG out. The style sheet colours them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from router.log.savings import shown_name, tier_names
from router.money import NANO_PER_USD, format_usd
from router.replay.report.calibration import Calibration
from router.replay.report.curve import Curve, CurvePoint
from router.replay.report.data import Bin
from router.replay.report.drawing import (
    Frame,
    percent_axis,
    room_for,
    ticks,
    ticks_between,
    usd_labels,
)
from router.replay.report.period import Period
from router.types import TIERS

WIDTH, HEIGHT, SMALL_WIDTH = 720, 270, 344
_MOST_LABELS = 7
_WIDEST = 64.0  # pixels of a bin's mark: a single bin is no wall
_PER_THOUSAND = 1000 / NANO_PER_USD
_LETTER, _LINE = 6.3, 13.0  # pixels of a label, for keeping labels apart


def full_moment(seconds: float, unit: int) -> str:
    """When a bin of `unit` seconds begins, in full."""
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when:%Y-%m-%d}" if unit >= 86_400 else f"{when:%Y-%m-%d %H:%M}"


def over_time(bins: Sequence[Bin], period: Period) -> str:
    """Draw each bin's spend before what the baseline would have cost."""
    top = max(max(each.spent, each.baseline) for each in bins) / NANO_PER_USD
    y_ticks = ticks(top)
    labels = usd_labels(y_ticks)
    frame = Frame(WIDTH, HEIGHT, len(bins), y_ticks, left=room_for(labels))
    frame.y_axis(labels)
    _time_axis(frame, bins, period)
    for number, each in enumerate(bins):
        when = full_moment(each.start, period.bin_seconds)
        for nano, share, kind, what in (
            (each.baseline, 0.84, "was-baseline", "always the baseline tier"),
            (each.spent, 0.5, "was-spent", "spent"),
        ):
            if nano:
                x, width = _place(frame, number, share)
                y = frame.y(nano / NANO_PER_USD)
                note = f"{when}: {what} {format_usd(nano)}"
                frame.rect(x, y, width, max(0.8, frame.bottom - y), kind, note)
    spent, baseline = sum(each.spent for each in bins), sum(each.baseline for each in bins)
    return frame.svg(
        f"Spend against always the baseline tier, by {period.unit}",
        f"{len(bins)} bins; in all {format_usd(spent)} spent, and {format_usd(baseline)} for the "
        "baseline. The table below has every figure.",
    )


def tier_mix(bins: Sequence[Bin], period: Period) -> str:
    """Draw each bin's answered requests by the tier that answered, as stacked shares."""
    frame = Frame(WIDTH, 220, len(bins), [0, 0.25, 0.5, 0.75, 1])
    percent_axis(frame)
    _time_axis(frame, bins, period)
    for number, each in enumerate(bins):
        base = 0.0
        x, width = _place(frame, number, 0.84)
        for tier in tier_names(each.tiers):
            share = each.tiers[tier] / each.requests
            y, bottom = frame.y(base + share), frame.y(base)
            when = full_moment(each.start, period.bin_seconds)
            note = f"{when}, {shown_name(tier)}: {each.tiers[tier]:,} of {each.requests:,}"
            frame.rect(x, y, width, max(0.5, bottom - y - 0.6), fill_of(tier), note)
            base += share
    total = [
        f"{shown_name(name)} {sum(each.tiers.get(name, 0) for each in bins):,}"
        for name in all_tiers(bins)
    ]
    return frame.svg(
        f"Share of the answered requests that each tier answered, by {period.unit}",
        f"In all: {', '.join(total)}.",
    )


def all_tiers(bins: Sequence[Bin]) -> list[str]:
    """The tiers that answered in any bin."""
    return tier_names(name for each in bins for name in each.tiers)


def fill_of(tier: str) -> str:
    """The class of a tier's colour: a name from a log never becomes one."""
    return f"fill-{tier}" if tier in TIERS else "fill-other"


def curve_chart(curve: Curve) -> str:
    """Draw predicted quality against predicted cost: other weights, single tiers, the log."""
    marked = [*curve.points, curve.operating, *curve.always.values()]
    qualities = [point.quality for point in marked]
    low, high = min(qualities), max(qualities)
    y_ticks = ticks_between(max(0.0, low - 0.01), min(1.0, high + 0.01))
    x_ticks = ticks(max(point.cost for point in marked) * _PER_THOUSAND)
    labels = _percents(y_ticks)
    frame = Frame(WIDTH, 300, x_ticks[-1], y_ticks, right=24, left=room_for(labels))
    frame.y_axis(labels)
    frame.x_axis(x_ticks, usd_labels(x_ticks), "predicted cost of 1,000 requests")
    frame.path([(p.cost * _PER_THOUSAND, p.quality) for p in curve.points], "curve-line")
    names = _Labels(frame)
    own = curve.operating
    names.near(own, "this log", "label strong")
    for tier, point in curve.always.items():
        frame.dot(
            point.cost * _PER_THOUSAND,
            point.quality,
            5,
            fill_of(tier),
            _said(f"always {tier}", point),
        )
        names.near(point, f"always {tier}", "label")
    frame.dot(own.cost * _PER_THOUSAND, own.quality, 7, "fill-operating", _said("this log", own))
    return frame.svg(
        "Predicted share of good answers against predicted cost",
        f"{_said('This log', own)}. "
        + " ".join(f"{_said(f'Always {tier}', p)}." for tier, p in curve.always.items()),
    )


def calibration_chart(calibration: Calibration) -> str:
    """Draw observed against predicted shares of good answers, with 95% intervals."""
    frame = Frame(SMALL_WIDTH, 280, 1.0, [0, 0.25, 0.5, 0.75, 1])
    percent_axis(frame)
    edges = [0, 0.25, 0.5, 0.75, 1]
    frame.x_axis(edges, [f"{x:.0%}" for x in edges], "predicted P(good)")
    frame.line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "ideal")
    for each in calibration.bins:
        x = frame.x(each.predicted)
        frame.line(x, frame.y(each.interval[0]), x, frame.y(each.interval[1]), "interval")
        note = f"predicted {each.predicted:.1%}, good {each.observed:.1%} by {each.count:,} labels"
        radius = 3 + min(5.0, 0.6 * math.log(each.count))
        frame.dot(each.predicted, each.observed, radius, "fill-operating", note)
    return frame.svg(
        "Labelled good answers against the prediction",
        f"{len(calibration.bins)} bins of {calibration.labels:,} labelled answers; on the diagonal "
        "a prediction is right.",
    )


def pace_bar(used: float, held: float, gone: float | None) -> str:
    """Draw how much of a budget is used and held, with a mark where the window stands; 0 to 1."""
    used_to, held_to = 160 * min(1.0, max(0.0, used)), 160 * min(1.0, max(0.0, used + held))
    mark = ""
    if gone is not None:
        mark = f'<line class="now" x1="{160 * gone:.1f}" x2="{160 * gone:.1f}" y1="0" y2="14"/>'
    return (
        '<svg class="pace" viewBox="0 0 160 14" aria-hidden="true">'
        '<rect class="track" y="2" width="160" height="10" rx="2"/>'
        f'<rect class="was-held" y="2" width="{held_to:.1f}" height="10" rx="2"/>'
        f'<rect class="was-spent" y="2" width="{used_to:.1f}" height="10" rx="2"/>{mark}</svg>'
    )


def change_bar(change: float) -> str:
    """Draw a change, -1 to 1, to the left or to the right of the middle."""
    width = max(1.0, 59 * min(1.0, abs(change)))
    x = 60.0 if change >= 0 else 60 - width
    return (
        '<svg class="bar" viewBox="0 0 120 10" aria-hidden="true">'
        f'<rect class="{"was-more" if change >= 0 else "was-less"}" x="{x:.1f}" '
        f'width="{width:.1f}" height="10" rx="1.5"/>'
        '<line class="axis" x1="60" x2="60" y1="0" y2="10"/></svg>'
    )


def _place(frame: Frame, number: int, share: float) -> tuple[float, float]:
    """Left edge and width of a bin's mark that takes a share of the bin."""
    slot = frame.x(1) - frame.x(0)
    width = min(_WIDEST, slot) * share
    return frame.x(number + 0.5) - width / 2, width


def _time_axis(frame: Frame, bins: Sequence[Bin], period: Period) -> None:
    step = math.ceil(len(bins) / _MOST_LABELS)
    shown = range(0, len(bins), step)
    times = [datetime.fromtimestamp(bins[at].start, UTC) for at in shown]
    first, last = (datetime.fromtimestamp(each.start, UTC) for each in (bins[0], bins[-1]))
    # As short as tells one from the others.
    labels = [f"{when.day} {when:%b}" for when in times]
    if period.bin_seconds < 86_400:
        one_day = first.date() == last.date()
        labels = [
            f"{'' if one_day else day + ' '}{when:%H:%M}"
            for day, when in zip(labels, times, strict=True)
        ]
    days = f"{first.day} {first:%b %Y}"
    if last.date() != first.date():
        days += f" to {last.day} {last:%b %Y}"
    title = f"by {period.unit}, {days} (UTC)"
    frame.x_axis([at + 0.5 for at in shown], labels, title)


def _percents(values: Sequence[float]) -> list[str]:
    places = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9) - 2)
    return [f"{value:.{places}%}" for value in values]


def _said(name: str, point: CurvePoint) -> str:
    cost = format_usd(round(point.cost * 1000))
    return f"{name}: predicted {point.quality:.1%} good, {cost} for 1,000 requests"


class _Labels:
    """Puts a word beside each point where no other word is yet."""

    def __init__(self, frame: Frame):
        self._frame = frame
        self._taken: list[tuple[float, float, float, float]] = []

    def near(self, point: CurvePoint, words: str, kind: str) -> None:
        x, y = self._frame.x(point.cost * _PER_THOUSAND), self._frame.y(point.quality)
        width = _LETTER * len(words)
        # The curve rises to the right, ever slower, so it seldom passes below and right of a point.
        places = [
            (dx if side > 0 else dx - width, dy)
            for dy in (15.0, 28.0, 4.0, -10.0, 41.0, -23.0, -36.0)
            for side, dx in ((1, 11.0), (-1, -11.0))
        ]
        boxes = [(x + dx, y + dy - _LINE, x + dx + width, y + dy) for dx, dy in places]
        box = next((box for box in boxes if self._free(box)), boxes[0])
        self._taken.append(box)
        self._frame.text(box[0], box[3], words, kind)

    def _free(self, box: tuple[float, float, float, float]) -> bool:
        inside = box[0] >= self._frame.left and box[2] <= self._frame.width
        inside = inside and box[1] >= 0 and box[3] <= self._frame.bottom
        return inside and all(
            box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]
            for other in self._taken
        )
