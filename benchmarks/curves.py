"""Cost-quality curves of a router against the best random mix of single models (the hull)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
QUALITY_LEVELS = (0.90, 0.95, 0.98, 0.99, 1.00)


def upper_hull(cost: Floats, quality: Floats) -> tuple[Floats, Floats]:
    """Return the corners of what randomising between points reaches: rising and concave."""
    corners: list[tuple[float, float]] = []
    best = -np.inf
    for x, y in sorted(
        zip(cost.tolist(), quality.tolist(), strict=True), key=lambda p: (p[0], -p[1])
    ):
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


def choices(quality: Floats, cost: Floats, weights: Floats) -> NDArray[np.int64]:
    """Choose the tier with the most quality - weight × cost: shape (len(weights), N)."""
    return np.stack([np.argmax(quality - weight * cost, axis=1) for weight in weights])


def cost_weights(cost: Floats, points: int = 101) -> Floats:
    """Weights from "money is no object" to "only money counts", 0 included."""
    scale = 1.0 / float(np.mean(cost.max(axis=1)))
    return np.concatenate([[0.0], scale * np.logspace(-4, 4, points - 1)])


def measure(chosen: NDArray[np.int64], score: Floats, cost: Floats) -> dict[str, Any]:
    """Score the sweep `chosen` (L, N) on recorded `score` and `cost`, both (N, 4).

    The area above the hull is the mean, over spends from the cheapest model's to the frontier's,
    of the router's quality less that of the best random mix of single models at the same spend.
    """
    index = np.arange(len(score))
    return _measure(
        cost[index, chosen].mean(axis=1), score[index, chosen].mean(axis=1), cost, score
    )


def _measure(x: Floats, y: Floats, cost: Floats, score: Floats) -> dict[str, Any]:
    return _summary(x, y, cost.mean(axis=0), score.mean(axis=0))


def _summary(x: Floats, y: Floats, single_cost: Floats, single_score: Floats) -> dict[str, Any]:
    hull_x, hull_y = upper_hull(single_cost, single_score)
    curve_x, curve_y = upper_hull(x, y)
    frontier_cost, frontier_score = float(single_cost[-1]), float(single_score[-1])
    cheapest = float(single_cost.min())
    cheapest_score = float(single_score[single_cost.argmin()])
    spends = np.linspace(cheapest, frontier_cost, 1001)
    # Left of its first point a curve falls back to its own cheapest point, never above it.
    mixed = np.interp(spends, hull_x, hull_y)
    routed = np.interp(spends, curve_x, curve_y)
    routed = np.where(spends < curve_x[0], mixed, routed)
    return {
        "area_above_hull": float(np.mean(routed - mixed)),
        "area_under_curve": float(np.mean(routed)),
        "apgr": float(np.mean((routed - cheapest_score) / (frontier_score - cheapest_score))),
        "apgr_of_hull": float(
            np.mean((mixed - cheapest_score) / (frontier_score - cheapest_score))
        ),
        "peak_quality_ratio": float(curve_y.max() / frontier_score),
        "cost_pct_at_quality": cost_at_quality(curve_x, curve_y, frontier_cost, frontier_score),
        "hull_cost_pct_at_quality": cost_at_quality(hull_x, hull_y, frontier_cost, frontier_score),
    }


def cost_at_quality(
    x: Floats, y: Floats, frontier_cost: float, frontier_score: float
) -> dict[str, float | None]:
    """Least cost, in % of the frontier's, at which the curve reaches shares of its quality."""
    found: dict[str, float | None] = {}
    for level in QUALITY_LEVELS:
        target = level * frontier_score
        if y.max() < target - 1e-12:
            found[f"{level:.2f}"] = None
        else:
            found[f"{level:.2f}"] = 100 * float(np.interp(target, y, x)) / frontier_cost
    return found


def bootstrap(
    chosen: NDArray[np.int64], score: Floats, cost: Floats, seed: int, repeats: int = 1000
) -> dict[str, Any]:
    """95% percentile intervals over resampled questions; the hull is drawn anew each time."""
    rng = np.random.default_rng(seed)
    n = len(score)
    index = np.arange(n)
    routed_cost, routed_score = cost[index, chosen], score[index, chosen]
    areas, at_full, at_98 = [], [], []
    for _ in range(repeats):
        weight = rng.multinomial(n, np.full(n, 1 / n)) / n
        figures = _summary(
            routed_cost @ weight, routed_score @ weight, weight @ cost, weight @ score
        )
        areas.append(figures["area_above_hull"])
        at_full.append(figures["cost_pct_at_quality"]["1.00"] or np.nan)
        at_98.append(figures["cost_pct_at_quality"]["0.98"] or np.nan)
    return {
        "area_above_hull": np.percentile(areas, [2.5, 97.5]).tolist(),
        "cost_pct_at_1.00": _interval(at_full),
        "cost_pct_at_0.98": _interval(at_98),
    }


def _interval(values: list[float]) -> list[float] | None:
    found = np.array(values)
    return None if np.isnan(found).mean() > 0.025 else np.nanpercentile(found, [2.5, 97.5]).tolist()


def calibration(predicted: Floats, score: Floats, bins: int = 10) -> dict[str, float]:
    """Expected calibration error over equal-count bins, Brier score, and AUC for 0/1 labels."""
    order = np.argsort(predicted, kind="stable")
    error = 0.0
    for part in np.array_split(order, bins):
        error += abs(predicted[part].mean() - score[part].mean()) * len(part) / len(predicted)
    return {"ece": float(error), "brier": float(np.mean((predicted - score) ** 2))}
