"""A request that can wait, in its time: how each arm would be called, the wait, and what else to
do where flex has no capacity.

How an arm would be called (`Way`) is written on the request. Quotes, reservations, the wire and the
settlement read it there, so a decision compares arms at the prices that would be paid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from router.decide.waiting import cheapest
from router.dispatch.deadlines import BATCH, FLEX, patience
from router.dispatch.effects import Store, Wait, Walk
from router.errors import ProviderUnavailable, RateLimited, RouterError
from router.planning.deciding import decide
from router.planning.ladder import asked_service_tier
from router.planning.quotes import quoter
from router.prices.hours import changes
from router.types import Way

if TYPE_CHECKING:
    from router.errors import ProviderError
    from router.planning.plan import Plan
    from router.types import Decision, Request
    from router.walk.attempts import Attempts
    from router.walk.serving import Serving

_log = logging.getLogger("router")
_LOOK_AGAIN = 60.0  # seconds: a wait is made of such parts, so a changed clock or price is noticed
_BATCHED_MODELS = "openai/"  # whose batch API is spoken


def in_time(
    make_plan: Callable[[Request], Plan], request: Request, waits: bool, batch: bool
) -> Plan:
    """A request's plan, with the way of each arm where it has a deadline and may wait."""
    plan = make_plan(request)
    if request.deadline is None or plan.ladder.policy.deferred is None:
        return plan
    return make_plan(timed(plan, request.now, waits=waits, batch=batch))


def timed(plan: Plan, now: float, *, waits: bool, batch: bool = False) -> Request:
    """The plan's request with the cheapest way in time for each arm.

    Parameters: `now`, unix seconds; `waits`, whether a later hour may be waited for; `batch`,
    whether it is queued, so that a batch can carry it.
    """
    request, asked = plan.request, plan.ladder.policy.deferred
    assert asked is not None
    assert request.deadline is not None
    able = patience(plan.ladder.policy, now, request.deadline)
    plain = _quoted(plan, [Way(None, now)] * len(plan.quotes))
    best = list(plain)
    for index, arm in enumerate(plan.ladder.arms):
        price = plan.ladder.prices[index].at(now)
        if price is None:
            continue
        tiers: set[str | None] = {None}
        if asked_service_tier(request.params) is None and not plan.ladder.service_tiers[index]:
            tiers |= {FLEX} if asked.flex and FLEX in price.multipliers else set()
            if batch and asked.batch and BATCH in price.multipliers and not price.off_peak:
                one = arm.samples == 1 and arm.model.startswith(_BATCHED_MODELS)
                tiers |= {BATCH} if one else set()
        hours = [now, *(changes(price, now) if waits and asked.off_peak else ())]
        others = [Way(tier, at) for at in hours for tier in tiers if (tier, at) != (None, now)]
        priced = [_quoted(plan, [way] * len(plan.quotes))[index] for way in others]
        best[index] = cheapest(plain[index], priced, able)
    at_once = [way.cost for way in plain]
    return replace(
        request,
        ways=tuple(replace(way, at_once=cost) for way, cost in zip(best, at_once, strict=True)),
    )


def _quoted(plan: Plan, ways: Sequence[Way]) -> list[Way]:
    """Ways with what each arm is expected to cost by its own."""
    quote_arm = quoter(plan.ladder, replace(plan.request, ways=tuple(ways)), plan.shape, plan.calls)
    return [
        replace(
            way, cost=quote_arm(index, plan.tokens[index], plan.quotes[index].output_cap).expected
        )
        for index, way in enumerate(ways)
    ]


def awaited(router: Serving, request: Request) -> Walk[Plan]:
    """The plan of a request, once the hour has come at which its best arm is called; the same plan
    where it does not wait. Nothing is reserved meanwhile."""
    plan = router.plan(request)
    if not plan.request.ways:
        return plan
    at_first = plan.request.ways
    while True:
        now, guarded = router.now(), router.drift.guarded(plan)
        room = yield Store(partial(router.room, plan.request))
        try:
            decision = decide(guarded, room, router.paced(guarded, room))
        except RouterError:
            break  # there is nothing to wait for; the walk says what is wrong
        wait = plan.request.ways[decision.chosen].at - now
        if wait <= 0:
            break
        _log.info("request %s waits: %s", request.request_id, decision.reason)
        yield Wait(min(wait, _LOOK_AGAIN))
        asked = request.original or request.messages
        request = replace(request, now=router.now(), messages=asked, original=None)
        # What a provider's cache held of its conversation may be gone by now.
        request = router.conversations.recall(request)
        plan = router.plan(request)
    plan = router.plan(request, waits=False)
    both = zip(plan.request.ways, at_first, strict=True)
    ways = tuple(replace(way, at_once=first.at_once) for way, first in both)
    return replace(plan, request=replace(plan.request, ways=ways))


def after_failure(
    attempts: Attempts, plan: Plan, decision: Decision, error: ProviderError
) -> Walk[Plan]:
    """The plan to go on with after a call has failed: `Plan.after`, but for a flex call.

    Where flex has no capacity it is asked again after a while; where the deadline leaves no time
    for that, or something else is wrong, every arm is called as without a deadline.
    """
    request, asked = plan.request, plan.ladder.policy.deferred
    if asked is None or not request.ways or request.ways[decision.chosen].service_tier != FLEX:
        return plan.after(decision.arm, error)
    assert request.deadline is not None
    now = attempts.clock()
    pause = max(asked.flex_retry, error.retry_after or 0.0)
    able = patience(plan.ladder.policy, now, request.deadline)
    if isinstance(error, RateLimited | ProviderUnavailable) and now + pause <= able.latest(FLEX):
        attempts.note = "flex had no capacity before"
        yield Wait(pause)
        return plan
    attempts.note = f"flex failed: {type(error).__name__}"
    ways = tuple(Way(None, now, way.at_once, way.at_once) for way in request.ways)
    plain = replace(plan, request=replace(request, ways=ways), full=None)
    quote_arm = quoter(plain.ladder, plain.request, plain.shape, plain.calls)
    caps = [quoted.output_cap for quoted in (plan.full or plan.quotes)]
    quotes = [quote_arm(i, tokens, caps[i]) for i, tokens in enumerate(plain.tokens)]
    return plain.with_quotes(quotes)
