"""The choice itself: arrays in, arrays out; one request or a million go through the same lines.

Nothing here reads a clock, a store or a socket: whoever replays a log with the same numbers gets
the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from router.money import NANO_PER_USD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

UNKNOWN = -1  # an amount of money that is not known
UNLIMITED = np.iinfo(np.int64).max


class Bar(IntEnum):
    """Why an arm may not be chosen; FREE means that it may."""

    FREE = 0
    NO_VISION = 1
    NO_AUDIO = 2
    NO_FILES = 3
    NO_TOOLS = 4
    NO_STRUCTURED_OUTPUT = 5
    WINDOW_TOO_SMALL = 6
    RULE = 7
    FAILED = 8
    UNPRICED = 9
    OVER_REQUEST_CEILING = 10
    OVER_BUDGET = 11
    STANDBY = 12
    NOT_NEXT = 13


@dataclass(frozen=True, slots=True)
class Objective:
    """What a policy asks for; exactly one field is set.

    `cost_weight`: how much probability of a good answer one US dollar is worth; the arm with the
    largest P(good) - cost_weight * expected USD wins (the linear utility of CARROT,
    arXiv:2502.03261, and of cascade routing, arXiv:2410.10347).
    `keep_quality`: the cheapest arm whose P(good) is at least this share of the baseline's.
    `max_cost_per_request`: the best P(good) among arms whose upper bound is at most this, in
    nano-USD.
    """

    cost_weight: float | None = None
    keep_quality: float | None = None
    max_cost_per_request: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """N requests by A arms, as decisions see them.

    `quality`: (N, A) P(good answer). `expected`: (N, A) expected cost, `upper`: (N, A) reserved
    cost, both int64 nano-USD or UNKNOWN. `barred`: (N, A) codes of `Bar` known beforehand.
    `tier`: (A,) tier index of each arm, ascending. `baseline`: index of the baseline tier.
    """

    quality: Floats
    expected: Ints
    upper: Ints
    barred: NDArray[np.uint8]
    tier: Ints
    baseline: int


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen: `arm` (N,), -1 where every arm is barred; `utility` (N, A), in the
    objective's own unit; `barred` (N, A), final; `propensity` (N, A), rows sum to 1 or are 0;
    `downgraded` (N,), whether a budget kept the best arm from being chosen."""

    arm: Ints
    utility: Floats
    barred: NDArray[np.uint8]
    propensity: Floats
    downgraded: NDArray[np.bool_]


def choose(options: Options, objective: Objective, room: Ints, *, priced: bool) -> Choices:
    """Choose one arm for each request.

    Parameters: `room`, (N,) nano-USD left in the budgets that ask for a downgrade (UNLIMITED where
    none does); `priced`, whether an arm without a known price is barred, as it is under a budget.
    Returns `Choices`. The first of equals wins, which is the lower tier.
    """
    barred = options.barred.copy()
    free = barred == Bar.FREE
    if priced:
        _bar(barred, free, options.upper == UNKNOWN, Bar.UNPRICED)
    if objective.max_cost_per_request is not None:
        too_dear = (options.upper == UNKNOWN) | (options.upper > objective.max_cost_per_request)
        _bar(barred, free, too_dear, Bar.OVER_REQUEST_CEILING)

    utility = _utility(options, objective, free)
    best_without_budget = _best(utility, _leaders(free, options.tier))

    _bar(barred, free, options.upper > room[:, None], Bar.OVER_BUDGET)
    leaders = _leaders(free, options.tier)
    barred[free & ~leaders] = Bar.STANDBY
    arm = _best(utility, leaders)

    propensity = np.zeros(options.quality.shape)
    decided = np.flatnonzero(arm >= 0)
    propensity[decided, arm[decided]] = 1.0
    return Choices(arm, utility, barred, propensity, downgraded=arm != best_without_budget)


def _utility(options: Options, objective: Objective, free: NDArray[np.bool_]) -> Floats:
    cost = _known_cost(options.expected, free)
    if objective.cost_weight is not None:
        return options.quality - objective.cost_weight * cost
    if objective.max_cost_per_request is not None:
        return options.quality
    assert objective.keep_quality is not None
    # The promise is relative to the baseline tier where it is free, else to the best arm left.
    free_quality = np.where(free, options.quality, -np.inf)
    of_baseline = np.where(options.tier == options.baseline, free_quality, -np.inf).max(axis=1)
    reference = np.where(np.isfinite(of_baseline), of_baseline, free_quality.max(axis=1))
    good_enough = options.quality >= objective.keep_quality * reference[:, None]
    # Good enough arms compete on price; the others only on quality, and always behind them.
    return np.where(good_enough, -cost, options.quality - 1e9)


def _known_cost(expected: Ints, free: NDArray[np.bool_]) -> Floats:
    """Expected USD; an unknown cost counts as the dearest known one, never as nothing."""
    usd = expected / NANO_PER_USD
    known = expected != UNKNOWN
    if known.all():
        return usd
    dearest = np.where(known & free, usd, 0.0).max(axis=1, initial=0.0)
    return np.where(known, usd, dearest[:, None])


def _bar(
    barred: NDArray[np.uint8], free: NDArray[np.bool_], where: NDArray[np.bool_], bar: Bar
) -> None:
    hit = free & where
    barred[hit] = bar
    free &= ~hit


def _leaders(free: NDArray[np.bool_], tier: Ints) -> NDArray[np.bool_]:
    """The first free arm of each tier: a tier's deployments are in order of preference."""
    leaders = free.copy()
    for arm in range(1, len(tier)):
        same_tier = np.flatnonzero(tier[:arm] == tier[arm])
        if len(same_tier):
            leaders[:, arm] &= ~free[:, same_tier].any(axis=1)
    return leaders


def _best(utility: Floats, allowed: NDArray[np.bool_]) -> Ints:
    best = np.where(allowed, utility, -np.inf).argmax(axis=1)
    return np.where(allowed.any(axis=1), best, -1)
