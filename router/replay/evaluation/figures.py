"""Sweeps and recorded outcomes → the figures of each, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.replay.evaluation.calibration import calibrate
from router.replay.evaluation.calibration import intervals as calibration_intervals
from router.replay.evaluation.chains import paid
from router.replay.evaluation.curves import (
    QUALITY_LEVELS,
    Singles,
    Summary,
    TwoTiers,
    resamples,
    summarise,
    two_tiers,
    upper_hull,
)
from router.replay.evaluation.sweep import Sweep
from router.replay.recorded.outcomes import Outcomes
from router.types import TIERS

if TYPE_CHECKING:
    from router.types import Floats, Ints

LEVELS = tuple(f"{level:.2f}" for level in QUALITY_LEVELS)
_DRAWS_AT_ONCE = 100
NO_FIGURES: dict[str, Any] = {
    "cost_pct_at_quality": dict.fromkeys(LEVELS),
    "peak_quality_ratio": None,
    "aiq": None,
    "aiq_above_random_mix": None,
    "oracle_gap_closed": None,
    "apgr": None,
    "cpt50": None,
    "cpt80": None,
}


class Measured:
    """The recorded truth of the queries that can be judged: those with every score (and cost).

    `rows` are their positions; `score` and `cost` have shape (n, 4), `cost` None where unknown.
    """

    def __init__(self, outcomes: Outcomes, draws: int, seed: int):
        self.columns = outcomes.columns
        known = np.isfinite(outcomes.score[:, self.columns]).all(axis=1)
        if outcomes.has_cost:
            known &= np.isfinite(outcomes.cost_usd[:, self.columns]).all(axis=1)
        self.rows: Ints = np.flatnonzero(known)
        self.score: Floats = outcomes.score[self.rows]
        self.cost: Floats | None = outcomes.cost_usd[self.rows] if outcomes.has_cost else None
        self.group = outcomes.group[self.rows]
        self.drawn = resamples(self.group, draws, seed) if draws and len(self.rows) else None

    def routed(self, sweep: Sweep) -> tuple[Floats | None, Floats]:
        """Recorded cost and score of what each policy of a sweep chose, (L, n)."""
        chosen, at = sweep.chosen[:, self.rows], np.arange(len(self.rows))
        if sweep.called is not None and self.cost is not None:
            return paid(sweep.called.steps[:, self.rows], self.cost), self.score[at, chosen]
        return None if self.cost is None else self.cost[at, chosen], self.score[at, chosen]

    def singles(self, weights: NDArray[np.floating[Any]] | None = None) -> list[Singles]:
        """The single models, once, or for each resample."""
        quality = _weighted(self.score[:, self.columns], weights)
        cost = np.full_like(quality, np.nan)
        if self.cost is not None:
            cost = _weighted(self.cost[:, self.columns], weights)
        return [Singles(c, q) for c, q in zip(cost, quality, strict=True)]


def _weighted(values: Floats, weights: NDArray[np.floating[Any]] | None) -> Floats:
    """Means of the columns of `values` (n, K) under each row of weights (B, n): (B, K)."""
    if weights is None:
        return np.asarray(values.mean(axis=0, keepdims=True))
    # In doubles, part by part: a model's mean must equal itself to the last digits.
    means = np.empty((len(weights), values.shape[1]))
    for start in range(0, len(weights), _DRAWS_AT_ONCE):
        part = weights[start : start + _DRAWS_AT_ONCE].astype(np.float64)
        means[start : start + _DRAWS_AT_ONCE] = part @ values / part.sum(axis=1, keepdims=True)
    return means


def measure(
    sweeps: Mapping[str, Sweep], truth: Measured, tick: Callable[[int], None] = lambda done: None
) -> dict[str, dict[str, Any]]:
    """The figures of every sweep, and under `intervals` their 95% bootstrap intervals.

    All sweeps are judged on the same resamples of groups, so differences are paired. A share of
    the oracle gap is the part of the area between the random mix and the oracle that is closed.
    """
    singles = truth.singles()[0]
    drawn_singles = [] if truth.drawn is None else truth.singles(truth.drawn)
    points, resampled = {}, {}
    for done, (name, sweep) in enumerate(sweeps.items()):
        cost, quality = truth.routed(sweep)
        points[name] = _figures(cost, quality, None, [singles])[0]
        resampled[name] = _figures(cost, quality, truth.drawn, drawn_singles)
        tick(done + 1)
    pairs = {name: _two_tiers(sweep, truth) for name, sweep in sweeps.items()}
    oracle = points.get("oracle")
    found = {}
    for name in sweeps:
        ones = [_flat(points[name], oracle, pairs[name][0])]
        many = [
            _flat(summary, resampled["oracle"][b] if oracle else None, pairs[name][1][b])
            for b, summary in enumerate(resampled[name])
        ]
        figures = _nested(ones[0])
        figures["intervals"] = _nested({key: _interval([m[key] for m in many]) for key in ones[0]})
        if "router" in points and name != "router":
            figures["router_aiq_lead"] = _lead(points["router"], points[name])
            figures["intervals"]["router_aiq_lead"] = _interval(
                [_lead(a, b) for a, b in zip(resampled["router"], resampled[name], strict=True)]
            )
        found[name] = figures
    return found


def _figures(
    cost: Floats | None, quality: Floats, weights: Any, singles: list[Singles]
) -> list[Summary]:
    if not singles:
        return []
    qualities = _weighted(quality.T, weights)
    costs = np.full_like(qualities, np.nan) if cost is None else _weighted(cost.T, weights)
    return [summarise(c, q, s) for c, q, s in zip(costs, qualities, singles, strict=True)]


def _two_tiers(sweep: Sweep, truth: Measured) -> tuple[TwoTiers | None, list[TwoTiers | None]]:
    count = 0 if truth.drawn is None else len(truth.drawn)
    if sweep.gain is None or len(truth.columns) != 2:
        return None, [None] * count
    gain, (weak, strong) = sweep.gain[truth.rows], truth.score[:, truth.columns].T
    drawn = [] if truth.drawn is None else two_tiers(gain, weak, strong, truth.drawn)
    return two_tiers(gain, weak, strong)[0], drawn


def _flat(
    summary: Summary, oracle: Summary | None, pair: TwoTiers | None
) -> dict[str, float | None]:
    flat: dict[str, float | None] = dict(zip(LEVELS, summary.cost_pct_at_quality, strict=True))
    flat |= {
        "peak_quality_ratio": summary.peak_quality_ratio,
        "aiq": summary.aiq,
        "aiq_above_random_mix": summary.aiq_above_random_mix,
    }
    mine, best = summary.aiq_above_random_mix, oracle and oracle.aiq_above_random_mix
    flat["oracle_gap_closed"] = mine / best if mine is not None and best else None
    for name in ("apgr", "cpt50", "cpt80"):
        flat[name] = None if pair is None else getattr(pair, name)
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in flat.items() if key not in LEVELS}
    return {"cost_pct_at_quality": {level: flat[level] for level in LEVELS}, **rest}


def _lead(router: Summary, other: Summary) -> float | None:
    return None if router.aiq is None or other.aiq is None else router.aiq - other.aiq


def _interval(values: Iterable[float | None]) -> list[float | None] | None:
    """The 2.5th and 97.5th percentile; a level that is not reached counts as infinitely dear, so
    an end of the interval may be None; None for the whole where no draw has the figure."""
    found = np.array([np.inf if value is None else value for value in values])
    if not found.size or not np.isfinite(found).any():
        return None
    ends = np.percentile(found, [2.5, 97.5], method="inverted_cdf")
    return [float(end) if np.isfinite(end) else None for end in ends]


def curve_points(sweep: Sweep, truth: Measured) -> dict[str, list[float] | None]:
    """Mean cost in % of always-frontier's and mean quality of each sweep point, for plots."""
    cost, quality = truth.routed(sweep)
    if cost is None or truth.cost is None:
        return {"cost_pct": None, "quality": quality.mean(axis=1).tolist()}
    always = truth.cost[:, truth.columns[-1]].mean()
    return {
        "cost_pct": (100 * cost.mean(axis=1) / always).tolist() if always > 0 else None,
        "quality": quality.mean(axis=1).tolist(),
    }


def band(sweep: Sweep, truth: Measured, points: int = 120) -> dict[str, list[float]] | None:
    """The 95% band of a curve's quality at fixed spends, in % of always-frontier's cost.

    Spends are spaced evenly in their logarithm, from the sweep's cheapest point on.
    """
    cost, quality = truth.routed(sweep)
    if cost is None or truth.cost is None or truth.drawn is None:
        return None
    always, least = truth.cost[:, truth.columns[-1]].mean(), cost.mean(axis=1).min()
    if not 0 < least < always:
        return None
    spends = np.geomspace(least, always, points)
    costs, qualities = _weighted(cost.T, truth.drawn), _weighted(quality.T, truth.drawn)
    drawn = [np.interp(spends, *upper_hull(c, q)) for c, q in zip(costs, qualities, strict=True)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {
        "cost_pct": (100 * spends / always).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def calibration_of(predicted: Floats, truth: Measured) -> dict[str, Any]:
    """Calibration of each tier's predicted quality (N, 4) on the judged queries."""
    found: dict[str, Any] = {}
    for column in truth.columns:
        mine, score = predicted[truth.rows, column], truth.score[:, column]
        one = calibrate(mine, score)
        found[TIERS[column]] = {
            "ece": one.ece,
            "brier": one.brier,
            "auc": one.auc,
            "bins": [list(part) for part in one.bins],
            "intervals": {}
            if truth.drawn is None
            else calibration_intervals(mine, score, truth.drawn),
        }
    return found
