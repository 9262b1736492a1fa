"""The cost weight chosen on calibration queries and judged on others.

A curve's cost at a level of quality is read off the very queries that drew it, so it is the cost
of a weight that nobody could have known. Here half of the queries choose, and the other half pay.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from router.replay.evaluation.curves import QUALITY_LEVELS

if TYPE_CHECKING:
    from router.types import Floats


@dataclass(frozen=True, slots=True)
class Honest:
    """One level of quality over all splits, judged on the halves that did not choose.

    `cost_pct` (mean, and its 5th and 95th percentile over splits) in % of always-frontier's cost;
    `quality_ratio` to always-frontier's quality; `share_below`: in how many splits the level was
    missed; `stayed_at_frontier`: in how many no point reached the level, so that the frontier was
    always called.
    """

    cost_pct: float | None
    cost_pct_p5_p95: tuple[float, float] | None
    quality_ratio: float
    quality_ratio_p5_p95: tuple[float, float]
    share_below: float
    stayed_at_frontier: float


def chosen_on_calibration(
    cost: Floats | None,
    quality: Floats,
    frontier_cost: Floats | None,
    frontier_quality: Floats,
    group: NDArray[np.str_],
    *,
    splits: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Choose the cheapest sweep point that reaches each level on one half, judge it on the other.

    Parameters: recorded `cost` and `quality` of each sweep point on each query, (L, N);
    always-frontier's, (N,); `group` (N,), never split. Where costs are unknown the point with the
    largest cost weight (the last) that reaches the level is taken for the cheapest.
    The choice is plug-in: the mean of the calibration half against the level, without a margin.
    Randomised mixes of two points are left out. So are splits in which the frontier has no good
    answer, or no cost, to be a share of; returns nothing where that is all of them.
    """
    halves = _halves(group, splits, seed)
    judged = ~halves
    calibration_quality = _means(halves, quality)
    calibration_frontier = _means(halves, frontier_quality[None, :])
    test_quality = _means(judged, quality)
    test_frontier = _means(judged, frontier_quality[None, :])[:, 0]
    order = np.broadcast_to(-np.arange(len(quality), dtype=np.float64), calibration_quality.shape)
    if cost is not None:
        order = _means(halves, cost)
    always = None
    tells = test_frontier > 0
    if cost is not None and frontier_cost is not None and frontier_cost.any():
        always = _means(judged, frontier_cost[None, :])[:, 0]
        tells &= always > 0
    row = np.flatnonzero(tells)
    found: dict[str, dict[str, Any]] = {}
    if not row.size:
        return found
    for level in QUALITY_LEVELS:
        reached = (calibration_quality >= level * calibration_frontier - 1e-12)[row]
        pick = np.where(reached, order[row], np.inf).argmin(axis=1)
        stayed = ~reached.any(axis=1)
        ratio = np.where(stayed, 1.0, test_quality[row, pick] / test_frontier[row])
        percent = None
        if cost is not None and always is not None:
            paid = _means(judged, cost)[row, pick]
            percent = np.where(stayed, 100.0, 100 * paid / always[row])
        found[f"{level:.2f}"] = asdict(
            Honest(
                cost_pct=None if percent is None else float(percent.mean()),
                cost_pct_p5_p95=None if percent is None else _spread(percent),
                quality_ratio=float(ratio.mean()),
                quality_ratio_p5_p95=_spread(ratio),
                share_below=float(np.mean(ratio < level - 1e-12)),
                stayed_at_frontier=float(stayed.mean()),
            )
        )
    return found


def _halves(group: NDArray[np.str_], splits: int, seed: int) -> NDArray[np.bool_]:
    """Which queries calibrate in each split, (splits, N): half of the groups."""
    rng = np.random.default_rng(seed)
    names, member = np.unique(group, return_inverse=True)
    half = np.arange(len(names)) < (len(names) + 1) // 2
    return np.stack([rng.permutation(half)[member] for _ in range(splits)])


def _means(chosen: NDArray[np.bool_], values: Floats) -> Floats:
    """The mean of each row of `values` (L, N) over the queries of each split: (splits, L)."""
    weight = chosen.astype(np.float64)
    mean: Floats = (weight @ values.T) / np.maximum(weight.sum(axis=1, keepdims=True), 1)
    return mean


def _spread(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [5, 95])
    return float(low), float(high)
