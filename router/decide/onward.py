"""After a look: stop, or call another arm; and what of that is left to chance.

Pure, over N requests by A arms, as everything here. Stopping stands after the last arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.decide.cascade import goes_on
from router.decide.choose import Choices
from router.decide.explore import Exploration, drawn, within_allowance
from router.decide.options import UNKNOWN, Bar, Objective, Options
from router.money import NANO_PER_USD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Onward:
    """`best` and `taken` (N,): an arm, or A to stop; `chances` (N, A + 1), rows sum to 1."""

    best: Ints
    taken: Ints
    chances: Floats


def after_look(
    options: Options,
    objective: Objective,
    choices: Choices,
    called: NDArray[np.bool_],
    exploration: Exploration | None,
) -> Onward:
    """What is done after answers were looked at.

    Parameters
    ----------
    options, objective
        As known after the look.
    choices
        What `choose` makes of them, without exploring.
    called
        (N, A): which arms have answered.
    exploration
        How much is left to chance, None for nothing; without a draw the best is taken.

    The best action is taken but for a share `rate`, which goes to the other actions by the inverse
    of their cost (stopping counts as the cheapest call) as far as they are safe: the answer that
    they come to is at most `max_quality_loss` less likely good. Dearer ones are held to the
    `allowance`, as at the first call.
    """
    n, arms = options.quality.shape
    rows, stop = np.arange(n), arms
    goes = goes_on(choices.arm, choices.utility, options.quality, called)
    best = np.where(goes, choices.arm, stop)
    if exploration is None or objective.promise or objective.alarm:
        return Onward(best, best, (best[:, None] == np.arange(arms + 1)).astype(np.float64))
    free = (choices.barred == Bar.FREE) & (options.expected != UNKNOWN)
    if exploration.roomy is not None:
        free = free & exploration.roomy
    held = np.where(called, options.quality, -np.inf).max(axis=1)
    price = (objective.cost_weight or 0.0) * options.expected / NANO_PER_USD
    comes_to = np.concatenate([choices.utility + price, held[:, None]], axis=1)
    safe = comes_to >= comes_to[rows, best][:, None] - exploration.max_quality_loss
    cost = options.expected.astype(np.float64)
    cheapest = np.where(free, cost, np.inf).min(axis=1, keepdims=True)
    weight = 1 / np.maximum(np.concatenate([cost, cheapest], axis=1), 1.0)
    cost = np.concatenate([cost, np.zeros((n, 1))], axis=1)
    taken = best[:, None] == np.arange(arms + 1)
    allowed = np.concatenate([free, np.ones((n, 1), bool)], axis=1) & safe & ~taken
    allowed &= free.any(axis=1, keepdims=True)  # where no arm is free, stopping is all there is
    share = np.where(allowed, weight, 0.0)
    total = share.sum(axis=1, keepdims=True)
    chances: Floats = exploration.rate * share / np.where(total > 0, total, 1.0)
    chances = within_allowance(chances, cost - cost[rows, best][:, None], exploration.allowance)
    chances += np.where(taken, 1 - chances.sum(axis=1, keepdims=True), 0.0)
    return Onward(best, drawn(chances, best, exploration), chances)
