"""Deciding around deployments that cannot be called just now: sideways, then up, never down.

Sideways costs nothing. Up costs money, so what will have passed as soon as a request's own retry
would be made is waited for instead.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from router.decide import Bar
from router.decide.explain import BAR_TEXT
from router.decide.obstacles import Obstacle, Obstacles, obstructed, ways_around
from router.dispatch.effects import Wait, Walk
from router.errors import (
    AtCapacity,
    BudgetExceeded,
    NoCapableDeployment,
    ProviderError,
    UnknownPrice,
)
from router.planning.deciding import decide

if TYPE_CHECKING:
    from router.capacity import Capacity
    from router.decide import Exploration, Objective
    from router.planning.plan import Plan
    from router.types import ArmView, Decision, Room
    from router.walk.attempts import Attempts

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between looks where no time is known
_MARGIN = 0.001  # seconds, so that what was to pass has passed


def decide_now(
    capacity: Capacity,
    plan: Plan,
    room: Room,
    objective: Objective | None,
    exploration: Exploration | None,
    patience: float = 0.0,
) -> Decision:
    """`decide`, with what is in the way of each deployment just now.

    Parameters: `patience`, seconds for which the request may wait rather than go up.
    Raises `AtCapacity` where something is in the way of the best arm, of the others of its tier and
    of each higher one, besides what `decide` raises.
    """
    found = capacity.obstacles(plan.shape.input_tokens, plan.tokens)
    if not found:
        return decide(plan, room, objective, exploration)
    return _around(plan, found, room, objective, exploration, patience)


def previewed(
    capacity: Capacity,
    plan: Plan,
    room: Room,
    objective: Objective | None,
    exploration: Exploration | None,
) -> Decision:
    """What `decided` would come to, without a wait: where it would wait for a turn that is known,
    what is decided once that has come."""
    patience = plan.ladder.policy.retry.max_wait
    try:
        return decide_now(capacity, plan, room, objective, exploration, patience)
    except AtCapacity as full:
        wait = full.retry_after
        if wait is None or wait + _MARGIN > patience:
            raise
        later, why = decide(plan, room, objective, exploration), str(full)

    def explain() -> tuple[str, tuple[ArmView, ...]]:
        return f"{later.reason}; once it has waited for {wait:.3g} s: {why}", later.arms

    return replace(later, explain=explain)


def decided(
    attempts: Attempts,
    plan: Plan,
    room: Room,
    objective: Objective | None,
    exploration: Exploration | None,
) -> Walk[Decision]:
    """`decide_now`; where everything is full it waits for a turn, at most `retry.max_wait` seconds.

    Raises the provider's own last error where the request had one, instead of `AtCapacity`.
    """
    left, pause = attempts.ladder.policy.retry.max_wait, _FIRST_PAUSE
    while True:
        try:
            patience = min(left, attempts.deadline - time.monotonic())
            return decide_now(attempts.capacity, plan, room, objective, exploration, patience)
        except AtCapacity as full:
            known = full.retry_after
            wait = pause if known is None else known + _MARGIN
            if wait > left or time.monotonic() + wait >= attempts.deadline:
                if isinstance(attempts.failure, ProviderError):
                    raise attempts.failure from full
                raise
        yield Wait(wait)
        left, pause = left - wait, min(2 * pause, _LONGEST_PAUSE)


def _around(
    plan: Plan,
    found: Obstacles,
    room: Room,
    objective: Objective | None,
    exploration: Exploration | None,
    patience: float,
) -> Decision:
    best = decide(plan, room, objective)
    if plan.options.barred[0, best.chosen] == Bar.HELD_ABOVE:
        plan = plan.let_down()  # as the decision was
    bars, tier = plan.options.barred, plan.ladder.tier
    if best.chosen not in found:
        options = replace(plan.options, barred=obstructed(bars, found))
        plan = replace(plan, options=options, obstacles=found)
        return decide(plan, room, objective, exploration)
    spilled = f"{best.arm.name} {said(found[best.chosen])}"
    reachable = {
        i: obstacle
        for i, obstacle in found.items()
        if tier[i] >= tier[best.chosen] and bars[0, i] in (Bar.FREE, Bar.NOT_NEXT)
    }
    own = {i: obstacle for i, obstacle in reachable.items() if tier[i] == tier[best.chosen]}
    soon = _soonest(own)
    for rank, way in ways_around(bars, found, tier, best.chosen):
        if rank > tier[best.chosen] and soon is not None and soon + _MARGIN <= patience:
            raise _full(plan, own)
        options = replace(plan.options, barred=way)
        tried = replace(plan, options=options, obstacles=found, spilled=spilled)
        try:
            return decide(tried, room, objective, exploration)
        except (BudgetExceeded, UnknownPrice, NoCapableDeployment, ProviderError):
            continue  # something else is in this way
    raise _full(plan, reachable)


def _soonest(obstacles: Obstacles) -> float | None:
    """Seconds until the first of them has passed, None where one's time is not known."""
    waits = [obstacle.wait for obstacle in obstacles.values()]
    return None if None in waits else min(each for each in waits if each is not None)


def _full(plan: Plan, obstacles: Obstacles) -> AtCapacity:
    names = {plan.ladder.arms[i].name: said(obstacle) for i, obstacle in obstacles.items()}
    return AtCapacity(names, _soonest(obstacles))


def said(obstacle: Obstacle) -> str:
    """An obstacle in words, as a decision shows it."""
    return BAR_TEXT[obstacle.bar].format(why=obstacle.why)
