"""What a choice is made from: the objective, and every arm of every request as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.decide.pacing import Pace
    from router.types import Floats, Ints

UNKNOWN = -1  # an amount of money that is not known
SHORT = 1e9  # how far below every cost the utility of an arm is that misses `keep_quality`
UNLIMITED = int(np.iinfo(np.int64).max)


LOWER_BOUND = 1.645  # standard errors below a prediction, which one in twenty falls short of


class Bar:
    """Why an arm may not be chosen; FREE means that it may. Plain integers, as arrays hold them:
    numpy takes many times as long to compare with a member of an `IntEnum`."""

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
    AT_CAPACITY = 14
    CIRCUIT_OPEN = 15
    UNHEALTHY = 16
    ANSWERED = 17
    NOT_DEARER = 18
    HELD_ABOVE = 19
    OWN_EFFORT = 20
    NOT_COMPARABLE = 21
    ALIKE = 22


@dataclass(frozen=True, slots=True)
class Objective:
    """What a policy asks for; exactly one of the first three fields is set.

    `cost_weight`: how much probability of a good answer one US dollar is worth; the arm with the
    largest P(good) - cost_weight * expected USD wins (the linear utility of CARROT,
    arXiv:2502.03261, and of cascade routing, arXiv:2410.10347). `margin` goes with it: the baseline
    tier's utility is raised by so much, so another tier must be better by more than that. At
    cost_weight 0 and a margin of 1 the baseline tier is taken wherever it is free.
    `keep_quality`: the cheapest arm whose P(good) is at least this share of the baseline's.
    `max_cost_per_request`: the best P(good) among arms whose upper bound is at most this, in
    nano-USD; `margin` goes with it as well.
    """

    cost_weight: float | None = None
    keep_quality: float | None = None
    max_cost_per_request: int | None = None
    margin: float = 0.0
    promise: str = ""  # what was certified with this weight and margin, in words
    alarm: str = ""  # the drift because of which the baseline is preferred, in words
    pace: Pace | None = None  # what the weight was found from, where pacing set it

    def keeps(self, utility: Floats) -> NDArray[np.bool_]:
        """Which arms reach `keep_quality`, by their utilities under this objective."""
        kept: NDArray[np.bool_] = utility > -SHORT / 2
        return kept


def safe_side(objective: Objective, alarm: str) -> Objective:
    """The baseline tier wherever it is free, under the same ceiling on a request's cost."""
    ceiling = objective.max_cost_per_request
    weight = 0.0 if ceiling is None else None
    return Objective(cost_weight=weight, max_cost_per_request=ceiling, margin=1.0, alarm=alarm)


@dataclass(frozen=True, slots=True)
class Options:
    """N requests by A arms, as decisions see them.

    `quality`: (N, A) P(good answer). `expected`: (N, A) expected cost, `upper`: (N, A) reserved
    cost, both int64 nano-USD or both UNKNOWN. `barred`: (N, A) codes of `Bar` known beforehand.
    `rung`: (A,) number of each arm's rung, ascending: arms of one rung stand in for each other.
    `baseline`: the rung of the baseline.
    """

    quality: Floats
    expected: Ints
    upper: Ints
    barred: NDArray[np.uint8]
    rung: Ints
    baseline: int


def cautious(quality: Floats, quality_std: Floats, below: NDArray[np.bool_]) -> Floats:
    """P(good) of requests unlike anything in training: below the baseline, a lower bound.

    Parameters: `quality` and its standard error, (…, A); `below` (A,), which arms are below it.
    """
    lower = quality - LOWER_BOUND * quality_std
    found: Floats = np.maximum(np.where(below, lower, quality), 0.0)
    return found
