"""The choice itself: arrays in, arrays out; one request or a million go through the same lines.

Nothing here reads a clock, a store or a socket: whoever replays a log with the same numbers gets
the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.decide.cascade import Look, followers, values
from router.decide.explore import Exploration, chances_of, drawn
from router.decide.options import SHORT, UNKNOWN, Bar, Objective, Options
from router.money import NANO_PER_USD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints

# Arrays of no dimension: numpy takes longer to convert a number than to compute with it.
_NANO_PER_USD, _UNKNOWN = np.array(float(NANO_PER_USD)), np.array(UNKNOWN)


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen: `arm` (N,), -1 where every arm is barred; `utility` (N, A), in the
    objective's own unit; `barred` (N, A), final; `downgraded` (N,), whether a budget kept the best
    arm from being chosen; `best` (N,), the arm without exploring; `chances` (N, A), of each arm,
    None where nothing was left to chance."""

    arm: Ints
    utility: Floats
    barred: NDArray[np.uint8]
    downgraded: NDArray[np.bool_]
    best: Ints
    chances: Floats | None = None

    @property
    def propensity(self) -> Floats:
        """(N, A) chance of each arm; rows sum to 1, or are 0 where every arm is barred."""
        if self.chances is not None:
            return self.chances
        taken: NDArray[np.bool_] = self.arm[:, None] == np.arange(self.utility.shape[1])
        return taken.astype(np.float64)


def choose(
    options: Options,
    objective: Objective,
    room: Ints,
    *,
    priced: bool,
    exploration: Exploration | None = None,
    look: Look | None = None,
) -> Choices:
    """Choose one arm for each request.

    Parameters: `room`, nano-USD left in the budgets that ask for a downgrade (UNLIMITED where none
    does), (N,), or (N, A) where arms differ; `priced`, whether an arm without a known price is
    barred, as it is under a budget; `exploration`, how much is left to chance; `look`, where
    answers are looked at before they are handed out: an arm's utility is then what its call is
    worth with all that may follow (`router.decide.cascade`), under a cost weight or a ceiling.
    Returns `Choices`. The first of equals wins, which is the lower tier.
    """
    # A live request is one row, for which each array operation costs a microsecond whatever it
    # does: what seldom applies (a bar, a second deployment in a tier) is asked for first.
    barred = options.barred.copy()
    not_known = options.upper == _UNKNOWN
    unknown = not_known if np.count_nonzero(not_known) else None
    if priced and unknown is not None:
        _bar(barred, unknown, Bar.UNPRICED)
    if objective.max_cost_per_request is not None:
        too_dear = options.upper > objective.max_cost_per_request
        _bar(barred, too_dear if unknown is None else too_dear | unknown, Bar.OVER_REQUEST_CEILING)

    free = np.logical_not(barred)  # Bar.FREE is 0
    utility = _utility(options, objective, free, unknown)
    leaders = leaders_of(free, options.rung)
    left = room[:, None] if room.ndim == 1 else room
    if look is not None:
        utility = _with_looks(options, objective, leaders, left, look, unknown)
    arm = best_without_budget = _best(utility, leaders)

    if _bar(barred, options.upper > left, Bar.OVER_BUDGET):
        free = np.logical_not(barred)
        leaders = leaders_of(free, options.rung)
        arm = _best(utility, leaders)
    if leaders is not free:
        barred[free & ~leaders] = Bar.STANDBY
    downgraded = arm != best_without_budget
    if exploration is None:
        return Choices(arm, utility, barred, downgraded, arm)
    chances = chances_of(options, objective, arm, utility, leaders, exploration)
    taken = drawn(chances, arm, exploration)
    return Choices(taken, utility, barred, downgraded, arm, chances)


def _utility(
    options: Options,
    objective: Objective,
    free: NDArray[np.bool_],
    unknown: NDArray[np.bool_] | None,
) -> Floats:
    if objective.cost_weight is not None or objective.max_cost_per_request is not None:
        utility = options.quality
        if objective.cost_weight is not None:
            cost = _known_cost(options.expected, free, unknown)
            utility = utility - objective.cost_weight * cost
        if objective.margin:
            utility = utility + objective.margin * (options.rung == options.baseline)
        return utility
    assert objective.keep_quality is not None
    # The promise is relative to the baseline where it is free, else to the best arm left.
    free_quality = np.where(free, options.quality, -np.inf)
    of_baseline = np.where(options.rung == options.baseline, free_quality, -np.inf).max(axis=1)
    reference = np.where(np.isfinite(of_baseline), of_baseline, free_quality.max(axis=1))
    good_enough = options.quality >= objective.keep_quality * reference[:, None]
    # Good enough arms compete on price; the others only on quality, and always behind them.
    cost = _known_cost(options.expected, free, unknown)
    return np.where(good_enough, -cost, options.quality - SHORT)


def _with_looks(
    options: Options,
    objective: Objective,
    free: NDArray[np.bool_],
    left: Ints,
    look: Look,
    unknown: NDArray[np.bool_] | None,
) -> Floats:
    """What each call is worth with what may follow it, in units of quality."""
    assert objective.keep_quality is None  # a policy with both is refused
    price = np.zeros(options.quality.shape)
    if objective.cost_weight:
        price = objective.cost_weight * _known_cost(options.expected, free, unknown)
    if objective.max_cost_per_request is not None:
        left = np.minimum(left, objective.max_cost_per_request)
    return values(options.quality, price, followers(options, free, left), look)


def _known_cost(
    expected: Ints, free: NDArray[np.bool_], unknown: NDArray[np.bool_] | None
) -> Floats:
    """Expected USD; an unknown cost counts as the dearest known one, never as nothing."""
    usd: Floats = expected / _NANO_PER_USD
    if unknown is None:
        return usd
    dearest = np.where(free & ~unknown, usd, 0.0).max(axis=1, initial=0.0)
    known: Floats = np.where(unknown, dearest[:, None], usd)
    return known


def _bar(barred: NDArray[np.uint8], where: NDArray[np.bool_], bar: int) -> bool:
    """Bar the arms `where`, but for those that are barred already; say whether there are any."""
    if not np.count_nonzero(where):
        return False
    barred[where & np.logical_not(barred)] = bar
    return True


def leaders_of(free: NDArray[np.bool_], rung: Ints) -> NDArray[np.bool_]:
    """The first free arm of each rung: its deployments are in order of preference.

    Returns `free` itself where no rung has two arms. Arms of one rung are neighbours.
    """
    rungs = rung.tolist()
    leaders = free
    for arm in range(1, len(rungs)):
        if rungs[arm] == rungs[arm - 1]:
            if leaders is free:
                leaders = free.copy()
            preferred = free[:, rungs.index(rungs[arm]) : arm]
            leaders[:, arm] &= ~preferred.any(axis=1)
    return leaders


def _best(utility: Floats, allowed: NDArray[np.bool_]) -> Ints:
    best: Ints
    if np.count_nonzero(allowed) == allowed.size:
        best = utility.argmax(axis=1)
        return best
    best = np.where(allowed, utility, -np.inf).argmax(axis=1)
    return np.where(allowed.any(axis=1), best, -1)
