"""Chains of calls on recorded answers: only as far as the policy would have called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from router.decide import (
    UNLIMITED,
    Bar,
    Look,
    Objective,
    Options,
    best_answer,
    choose,
    dearer,
    goes_on,
)
from router.money import NANO_PER_USD
from router.replay.evaluation.by_form import Judge
from router.replay.recorded.answers import Answers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from router.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Called:
    """The chains of N queries under L policies: `steps` (L, N, S), tiers in the order of their
    calls, -1 where there was none; `chosen` (L, N), whose answer is handed out; `predicted`
    (L, N, S), its P(good) as known when each was called."""

    steps: NDArray[np.int8]
    chosen: Ints
    predicted: Floats

    @classmethod
    def empty(cls, policies: int, queries: int, steps: int) -> Called:
        return cls(
            np.full((policies, queries, steps), -1, dtype=np.int8),
            np.full((policies, queries), -1, dtype=np.int64),
            np.full((policies, queries, steps), np.nan),
        )

    def fill(self, at: Ints, part: Called) -> None:
        """Put the chains of the queries `at` in their places."""
        self.steps[:, at], self.chosen[:, at] = part.steps, part.chosen
        self.predicted[:, at] = part.predicted


def call_chains(
    quality: Floats,
    expected: Floats,
    weights: Floats,
    columns: list[int],
    judge: Judge,
    answers: Answers,
    max_steps: int,
) -> Called:
    """Decide, look and decide again with the rule and the gate of live requests.

    Parameters: predicted `quality` and `expected` dollars of N queries, (N, 4); `weights` (L,), in
    quality per dollar; `columns`, the ladder's tiers; `answers`, read only where a call was made.
    """
    n, tier = len(quality), np.array(columns)
    found = Called.empty(len(weights), n, max_steps)
    signals = judge.signals(tier)
    nano = np.rint(expected[:, columns] * NANO_PER_USD).astype(np.int64)
    may_follow, rows = dearer(nano, tier), np.arange(n)
    known: dict[tuple[int, ...], Floats] = {(): quality}  # P(good) after each way, of all queries

    def after(path: tuple[int, ...]) -> Floats:
        if path not in known:
            known[path] = judge.after(quality, after(path[:-1]), answers, path)
        return known[path]

    for point, weight in enumerate(weights.tolist()):
        objective = Objective(cost_weight=weight)
        belief = np.ascontiguousarray(quality[:, columns])
        called, last = np.zeros((n, len(columns)), dtype=bool), np.zeros(n, dtype=np.int64)
        barred = np.zeros((n, len(columns)), dtype=np.uint8)
        active = rows
        for step in range(max_steps):
            options = Options(
                quality=belief[active],
                expected=nano[active],
                upper=np.zeros((len(active), len(columns)), dtype=np.int64),
                barred=barred[active],
                rung=tier,
                baseline=columns[-1],
            )
            compared = answers.comparable[active] | judge.learned
            look = Look(signals, max_steps - step, called[active], compared)
            room = np.array([UNLIMITED])
            choices = choose(options, objective, room, priced=False, look=look)
            if step:
                go = goes_on(choices.arm, choices.utility, belief[active], called[active])
                active, arm = active[go], choices.arm[go]
            else:
                arm = choices.arm
            if not len(active):
                break
            found.steps[point, active, step] = tier[arm]
            found.predicted[point, active, step] = belief[active, arm]
            called[active, arm], last[active] = True, arm
            barred[active] = np.where(may_follow[active, arm], barred[active], Bar.NOT_DEARER)
            barred[called] = Bar.ANSWERED
            ways = found.steps[point, active, : step + 1]
            for way in np.unique(ways, axis=0):
                mine = active[(ways == way).all(axis=1)]
                belief[mine] = after(tuple(way.tolist()))[np.ix_(mine, tier)]
        found.chosen[point] = tier[best_answer(belief, called, last)]
    return found


def disagreement(answers: Answers, columns: list[int]) -> Called:
    """The naive cascade: ask the two lowest tiers, keep the upper one's answer where they agree,
    else ask the highest. Beside it, so that mixes can be read off, always and never escalating."""
    low, high, top = columns[0], columns[-2], columns[-1]
    if low == high:
        high, low = low, -1
    else:
        high = columns[1]
    n = len(answers.alike)
    found = Called.empty(3, n, 3)
    found.steps[0, :, 0] = found.chosen[0] = top
    found.steps[2, :, 0] = found.chosen[2] = high
    found.steps[1, :, 0] = high
    if low < 0:
        found.chosen[1] = high
        return found
    agree = answers.alike[:, low, high] > 0
    found.steps[1, :, 1] = low
    found.steps[1, ~agree, 2] = top
    found.chosen[1] = np.where(agree, high, top)
    return found


def paid(steps: NDArray[np.signedinteger[Any]], cost: Floats) -> Floats:
    """The cost of chains (L, N): the sum of what their calls (L, N, S) cost, of `cost` (N, 4)."""
    total = np.zeros(steps.shape[:2])
    rows = np.arange(steps.shape[1])
    for step in range(steps.shape[2]):
        tier = steps[:, :, step]
        total += np.where(tier >= 0, cost[rows, np.maximum(tier, 0)], 0.0)
    return total
