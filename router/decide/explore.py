"""Leaving a little to chance, so that a log can tell what other arms would have done.

The best arm is taken but for a small, known chance of a neighbour: without such chances no log
can say what another policy would have cost. What is explored is safe (it is predicted to be nearly
as good, and keeps what the objective promises) and cheap: chances go by the inverse of cost, and
what they add to the expected spend is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.decide.options import UNKNOWN, Objective, Options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Exploration:
    """How much is left to chance, and the draw.

    `rate`: the most probability that leaves the best arm for its neighbours, the arms of the next
    tier below and above that may be chosen; `max_quality_loss`: by how much their P(good) may be
    lower than the best arm's; `allowance`: nano-USD that this may add to the expected cost of a
    request; `holdout`: probability of the baseline tier, whatever it costs; `draw`: (N,) uniform
    numbers from 0 to below 1, None to take the best arm and only state the chances; `roomy`: (N, A)
    which arms every budget has room for, None for all: exploring is never why one is refused.
    """

    rate: float
    max_quality_loss: float
    allowance: float
    holdout: float = 0.0
    draw: Floats | None = None
    roomy: NDArray[np.bool_] | None = None


def chances_of(
    options: Options,
    objective: Objective,
    best: Ints,
    utility: Floats,
    free: NDArray[np.bool_],
    exploration: Exploration,
) -> Floats:
    """The chance of each arm, (N, A): rows sum to 1, or are 0 where no arm is free.

    Parameters: `best` (N,), the arms that would be taken otherwise, -1 where there is none;
    `utility` (N, A), of the objective; `free` (N, A), which arms may be taken.
    """
    rows, some = np.arange(len(best)), best >= 0
    taken = best[:, None] == np.arange(options.quality.shape[1])
    if exploration.roomy is not None:
        free = free & (exploration.roomy | taken)
    expected = options.expected.astype(np.float64)
    cost_of_best = expected[rows, best][:, None]
    allowed = _safe(options, objective, best, utility, exploration) & _next_to(best, free)
    allowed &= (options.expected != UNKNOWN) & (cost_of_best != UNKNOWN) & some[:, None]

    share = np.where(allowed, 1 / np.maximum(expected, 1.0), 0.0)
    total = share.sum(axis=1, keepdims=True)
    chances: Floats = exploration.rate * share / np.where(total > 0, total, 1.0)
    chances = within_allowance(chances, expected - cost_of_best, exploration.allowance)
    chances += np.where(taken, 1 - chances.sum(axis=1, keepdims=True), 0.0)
    held_out = free & (options.rung == options.baseline) & some[:, None]
    holdout = exploration.holdout * held_out.any(axis=1, keepdims=True)
    mixed: Floats = (1 - holdout) * chances + holdout * held_out
    return mixed


def within_allowance(chances: Floats, extra: Floats, allowance: float) -> Floats:
    """Chances (N, A) of which those of dearer arms add no more than `allowance` to the expected
    cost. `extra` (N, A): what each arm costs beyond the best."""
    if not np.isfinite(allowance):
        return chances
    dearer = np.maximum(extra, 0.0) * chances
    within = allowance / np.maximum(dearer.sum(axis=1, keepdims=True), max(allowance, 1e-9))
    held: Floats = np.where(dearer > 0, within * chances, chances)
    return held


def drawn(chances: Floats, best: Ints, exploration: Exploration) -> Ints:
    """The arm that each row's draw falls on, (N,); -1 where no arm is free."""
    if exploration.draw is None:
        return best
    # A draw above a sum that rounding left below 1 falls on the last arm with a chance.
    last = chances.shape[1] - 1 - (chances[:, ::-1] > 0).argmax(axis=1)
    fell = (chances.cumsum(axis=1) <= exploration.draw[:, None]).sum(axis=1)
    return np.where(best >= 0, np.minimum(fell, last), -1)


def _safe(
    options: Options,
    objective: Objective,
    best: Ints,
    utility: Floats,
    exploration: Exploration,
) -> NDArray[np.bool_]:
    """Which arms keep what the objective promises, and are nearly as good as the best one."""
    if objective.promise:
        # A mixture with the baseline keeps a certified promise about it; no other does for sure.
        return np.broadcast_to(options.rung == options.baseline, options.quality.shape)
    least = options.quality[np.arange(len(best)), best] - exploration.max_quality_loss
    safe: NDArray[np.bool_] = options.quality >= least[:, None]
    if objective.keep_quality is not None:
        safe &= objective.keeps(utility)
    return safe


def _next_to(best: Ints, free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The free arms directly below and above the best one, of as many arms as there are."""
    rank = free.cumsum(axis=1)
    mine = rank[np.arange(len(best)), best][:, None]
    next_to: NDArray[np.bool_] = free & (np.abs(rank - mine) == 1)
    return next_to
