"""Cost-quality curves, and the figures that sum one up.

A curve is what a router reaches when its cost weight is swept. Randomising between two sweep
points is a policy too, so a curve counts as its upper hull: the rising, concave chain of corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from router.types import Floats, Ints

QUALITY_LEVELS = (0.90, 0.95, 0.98, 0.99, 1.00)
_TOLERANCE = 1e-12  # a mean of recorded scores differs from itself by rounding


@dataclass(frozen=True, slots=True)
class Singles:
    """The single models of a ladder, cheapest tier first: mean `cost` and `quality`, (K,).

    The last one is the frontier. Where costs are unknown `cost` is NaN.
    """

    cost: Floats
    quality: Floats


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one curve; None where they do not exist.

    `cost_pct_at_quality`: for each level of `QUALITY_LEVELS`, the least cost in % of always-
    frontier's at which the curve has that share of the frontier's mean quality.
    `peak_quality_ratio`: the curve's best mean quality as a share of the frontier's.
    `aiq`: see `area_under`. `aiq_above_random_mix`: `aiq` less that of the hull of single models.
    """

    cost_pct_at_quality: tuple[float | None, ...]
    peak_quality_ratio: float | None
    aiq: float | None
    aiq_above_random_mix: float | None


def upper_hull(cost: Floats, quality: Floats) -> tuple[Floats, Floats]:
    """Return the corners of what randomising between points reaches: rising and concave."""
    corners: list[tuple[float, float]] = []
    best = -np.inf
    order = np.lexsort((-quality, cost))
    for x, y in zip(cost[order].tolist(), quality[order].tolist(), strict=True):
        if y <= best:
            continue
        best = y
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            corners.pop()
        corners.append((x, y))
    xs, ys = zip(*corners, strict=True)
    return np.array(xs), np.array(ys)


def cost_at(curve: tuple[Floats, Floats], quality: float) -> float | None:
    """The least cost at which a hull has at least `quality`; None where it never has."""
    xs, ys = curve
    if ys[-1] < quality - _TOLERANCE:
        return None
    return float(np.interp(quality, ys, xs))


def area_under(
    curve: tuple[Floats, Floats], floor: tuple[Floats, Floats], least: float, most: float
) -> float | None:
    """AIQ: the mean quality that a curve reaches over spends from `least` to `most`.

    The integral of the hull over mean dollars a call, divided by the width of the range (the
    average improvement in quality of RouterBench, arXiv:2403.12031, on one common range: from the
    cheapest single model's mean cost to the frontier's). Left of the curve's first corner, where
    it is too dear to be used, stands `floor`, the hull of single models; right of its last corner
    it stays level. Exact, since both are piecewise linear. None where the range is empty.
    """
    if not most > least:
        return None
    start = min(max(float(curve[0][0]), least), most)
    area = _integral(floor, least, start) + _integral(curve, start, most)
    return area / (most - least)


def _integral(curve: tuple[Floats, Floats], low: float, high: float) -> float:
    if high <= low:
        return 0.0
    xs, ys = curve
    inner = xs[(xs > low) & (xs < high)]
    at = np.concatenate([[low], inner, [high]])
    return float(np.trapezoid(np.interp(at, xs, ys), at))


def summarise(cost: Floats, quality: Floats, singles: Singles) -> Summary:
    """Sum up a sweep: mean `cost` and `quality` of its points, both (L,)."""
    top_quality, top_cost = float(singles.quality[-1]), float(singles.cost[-1])
    peak = float(quality.max()) / top_quality if top_quality > 0 else None
    if not np.isfinite(singles.cost).all():
        return Summary((None,) * len(QUALITY_LEVELS), peak, None, None)
    curve, mix = upper_hull(cost, quality), upper_hull(singles.cost, singles.quality)
    at = [cost_at(curve, level * top_quality) for level in QUALITY_LEVELS]
    least = float(singles.cost.min())
    aiq = area_under(curve, mix, least, top_cost)
    mixed = area_under(mix, mix, least, top_cost)
    none = min(top_cost, top_quality) <= 0  # of which there are no shares
    return Summary(
        tuple(None if c is None or none else 100 * c / top_cost for c in at),
        peak,
        aiq,
        None if aiq is None or mixed is None else aiq - mixed,
    )


@dataclass(frozen=True, slots=True)
class TwoTiers:
    """RouteLLM's figures (arXiv:2406.18665, section 3.2) of a ranking of queries by expected gain.

    The strong model gets the queries with the largest gain first; the performance gap recovered
    (PGR) is the share of strong's lead over weak that is then reached. `apgr` is its mean over all
    shares of strong calls, `cpt50` and `cpt80` are the least share of strong calls, in %, at which
    half and four fifths of the lead are recovered. Equal gains are called in random order, so
    between their two ends the curve is a line.
    """

    apgr: float
    cpt50: float
    cpt80: float


def rank_ties(gain: Floats) -> tuple[Ints, Ints]:
    """Order queries by falling gain; return the order and the ends of runs of equal gain."""
    order = np.argsort(-gain, kind="stable")
    ranked = gain[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, len(gain))
    return order, ends


def two_tiers(
    gain: Floats, weak: Floats, strong: Floats, weights: NDArray[np.floating[Any]] | None = None
) -> list[TwoTiers | None]:
    """RouteLLM's figures of a ranking by `gain`, for recorded scores `weak` and `strong`, (N,).

    `weights` (B, N) gives the rows of B resamples, one result each; None is every row once.
    A result is None where strong is no better than weak on average.
    """
    order, ends = rank_ties(gain)
    drawn = np.ones((1, len(gain))) if weights is None else weights
    found: list[TwoTiers | None] = []
    lead = (strong - weak)[order]
    for row in drawn[:, order]:
        calls = np.concatenate([[0.0], np.cumsum(row)[ends - 1]])
        won = np.concatenate([[0.0], np.cumsum(row * lead)[ends - 1]])
        if won[-1] <= _TOLERANCE * max(calls[-1], 1.0):
            found.append(None)
            continue
        share, pgr = calls / calls[-1], won / won[-1]
        found.append(
            TwoTiers(
                float(np.trapezoid(pgr, share)),
                100 * _first_share(share, pgr, 0.5),
                100 * _first_share(share, pgr, 0.8),
            )
        )
    return found


def _first_share(share: Floats, pgr: Floats, level: float) -> float:
    """The first share of calls at which the level is reached, linear between thresholds."""
    at = int(np.argmax(pgr >= level - _TOLERANCE))
    if at == 0:
        return float(share[0])
    low, high = pgr[at - 1], pgr[at]
    part = (level - low) / (high - low)
    return float(share[at - 1] + min(part, 1.0) * (share[at] - share[at - 1]))


def resamples(group: NDArray[np.str_], draws: int, seed: int) -> NDArray[np.float32]:
    """Draw groups with replacement: (draws, N), how often each row is in each resample.

    The rows of a group come and go together, since they are no independent evidence.
    """
    rng = np.random.default_rng(seed)
    names, member = np.unique(group, return_inverse=True)
    counts = np.empty((draws, len(names)), dtype=np.float32)
    for draw in range(draws):
        counts[draw] = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
    return counts[:, member]
