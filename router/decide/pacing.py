"""Which cost weight spends a given amount of money per request.

The choice at a cost weight w maximises quality - w * cost, so as w falls each request climbs the
upper hull of its arms in the (cost, quality) plane, one step at a time: it moves from arm a to a
dearer arm b at w = (quality_b - quality_a) / (cost_b - cost_a). All steps of a sample of requests,
in the order of falling w, are its spend curve: the greedy solution of the knapsack's linear
relaxation (Dantzig 1957; for several options a request, Sinha and Zoltners, Operations Research
27, 1979), of which w is the dual price.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

ONLY_COST = 1e9  # a cost weight at which no gain is worth any money; the largest a policy may name


@dataclass(frozen=True, slots=True)
class Pace:
    """What a paced cost weight was found from: `left`, nano-USD of the budget to spend on about
    `requests` requests. `kept`: nano-USD that a reservation above the cheapest must leave."""

    budget: str
    left: int
    requests: float
    kept: int


@dataclass(frozen=True, slots=True)
class SpendCurve:
    """Expected nano-USD per request at every cost weight: a step function.

    `weights`, K falling cost weights, in quality per USD, at which a request of the sample changes
    its arm. `spend`, K + 1 rising means: `spend[k]` is spent between `weights[k - 1]` and
    `weights[k]`, so `spend[0]` above all of them and `spend[K]` below.
    """

    weights: tuple[float, ...]
    spend: tuple[float, ...]

    def weight_for(self, target: float) -> float:
        """The cost weight of the dearest step that spends at most `target` nano-USD per request.

        Falls as `target` rises; 0 where the target is more than anything worth its money costs,
        `ONLY_COST` where it is less than the cheapest arms cost. Never itself a weight at which an
        arm changes, where a rounding error would decide.
        """
        step = bisect_right(self.spend, target) - 1
        if step < 0:
            return ONLY_COST
        if step == len(self.weights):
            return 0.0
        if step == 0:
            return min(2 * self.weights[0], ONLY_COST)
        return (self.weights[step - 1] + self.weights[step]) / 2

    def spend_at(self, weight: float) -> float:
        """Expected nano-USD per request at a cost weight, O(log K); at a step, below it."""
        return self.spend[bisect_right(self.weights, -weight, key=operator.neg)]


def spend_curve(quality: Floats, expected: Ints, free: NDArray[np.bool_]) -> SpendCurve | None:
    """Return the spend curve of a sample, None where no request has a free arm.

    Parameters: `quality`, (N, A) P(good answer), any margin included; `expected`, (N, A) nano-USD,
    known wherever an arm is free; `free`, (N, A), which arms may be chosen, of each tier at most
    the one that leads it.
    """
    some = free.any(axis=1)
    if not some.all():
        quality, expected, free = quality[some], expected[some], free[some]
    n = len(quality)
    if not n:
        return None
    row = np.arange(n)
    cost = np.where(free, expected / 1e9, np.inf)
    good = np.where(free, quality, -np.inf)
    cheapest = cost == cost.min(axis=1, keepdims=True)
    at = np.where(cheapest, good, -np.inf).argmax(axis=1)
    spent = float(cost[row, at].mean())
    weights, raises = [], []
    for _ in range(quality.shape[1] - 1):
        gain = good - good[row, at][:, None]
        more = cost - cost[row, at][:, None]
        climbs = (gain > 0) & (more > 0)
        if not climbs.any():
            break
        slope = np.divide(gain, more, out=np.zeros_like(gain), where=climbs)
        following = slope.argmax(axis=1)
        steep = slope[row, following]
        moved = steep > 0
        weights.append(steep[moved])
        raises.append(more[row, following][moved])
        at = np.where(moved, following, at)
    if not weights:
        return SpendCurve((), (spent * 1e9,))
    weight, step = np.concatenate(weights), np.concatenate(raises)
    order = weight.argsort()[::-1]
    weight, total = weight[order], spent + step[order].cumsum() / n
    last = np.append(weight[1:] < weight[:-1], True)  # requests that change together count as one
    return SpendCurve(tuple(weight[last].tolist()), (spent * 1e9, *(total[last] * 1e9).tolist()))
