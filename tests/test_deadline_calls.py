"""Calls with a deadline over real HTTP: flex, off-peak hours, and neither where time is short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from router import Router
from router.dispatch.effects import Store, Wait
from router.dispatch.wire import send
from router.errors import InvalidRequest
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import BUDGET, NANO_BILL, PIN_NANO, assert_books_agree, requests, rows
from tests.provider import USAGE, Provider, ok, status

SOON = 3600.0
TIMEOUT = {"connect": 2, "read": 5, "total": 10}


def tiers(url: str, **price: Any) -> dict[str, Any]:
    """The test's tiers, nano with a price of its own."""
    found: dict[str, Any] = ladder(url)["tiers"]
    found["nano"][0]["price"].update(price)
    return found


HALF = {"flex": "0.5"}


def test_flex_is_taken_where_there_is_time_and_billed_at_its_price(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], deferred={"flex": True}, timeout=TIMEOUT,
        tiers=tiers(provider.url, multipliers=HALF),
    )  # fmt: skip
    now = time.time()
    waits = router.completion(messages=HELLO, deadline=now + SOON)
    hurries = router.completion(messages=HELLO)
    late = router.completion(messages=HELLO, deadline=now + 60)  # no time for flex and another call

    async def call() -> Any:
        deadline = datetime.now(UTC) + timedelta(hours=1)
        return await router.acompletion(messages=HELLO, deadline=deadline)

    again = asyncio.run(call())
    sent = [body.get("service_tier") for _, _, body in provider.wire]
    assert sent == ["flex", None, None, "flex"]
    bills = [Router.decision(reply).cost for reply in (waits, hurries, late, again)]
    assert bills == [NANO_BILL // 2, NANO_BILL, NANO_BILL, NANO_BILL // 2]
    assert "flex price" in Router.decision(waits).decision.reason
    assert "less than at once" in Router.decision(waits).decision.reason
    assert "called at once" in Router.decision(late).decision.reason
    assert rows(router)[0].reserved * 2 == rows(router)[1].reserved
    assert_books_agree(router, provider)
    facts = requests(router)[0].features
    assert facts["deadline_seconds"] == pytest.approx(SOON, abs=5)
    assert ["flex", 0.0] in facts["ways"]
    # The baseline waits as well: what waiting saves is no saving by routing.
    assert requests(router)[0].baseline == requests(router)[1].baseline  # it has no flex price


def test_without_the_policys_word_a_deadline_only_ends_the_request(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], tiers=tiers(provider.url, multipliers=HALF))
    reply = router.completion(messages=HELLO, deadline=time.time() + SOON)
    assert "service_tier" not in provider.wire[0][2]
    assert "nothing is waited for" in Router.decision(reply).decision.reason
    with pytest.raises(InvalidRequest, match="seconds from now"):
        router.completion(messages=HELLO, deadline=60)
    assert len(provider.wire) == 1


def test_a_service_tier_that_is_asked_for_is_not_changed(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        rules=[PIN_NANO], deferred={"flex": True}, timeout=TIMEOUT,
        tiers=tiers(provider.url, multipliers={**HALF, "priority": "2"}),
    )  # fmt: skip
    reply = router.completion(messages=HELLO, deadline=time.time() + SOON, service_tier="priority")
    assert provider.wire[0][2]["service_tier"] == "priority"
    assert Router.decision(reply).cost == 2 * NANO_BILL


def test_flex_without_capacity_is_asked_again_and_then_the_standard_price_is_paid(
    make_router: MakeRouter, provider: Provider
) -> None:
    made = {
        "budgets": BUDGET,
        "rules": [PIN_NANO],
        "retry": {"attempts": 1, "initial_wait": 0, "max_wait": 0},
        "tiers": tiers(provider.url, multipliers=HALF),
    }
    full = status(429)
    router = make_router(
        **made, deferred={"flex": True, "flex_retry": 0.05, "flex_timeout": 1}, timeout=TIMEOUT
    )
    provider.script("t-nano", full, full)
    reply = router.completion(messages=HELLO, deadline=time.time() + 60)
    sent = [body.get("service_tier") for _, _, body in provider.wire]
    assert sent == ["flex", "flex", "flex"]
    assert Router.decision(reply).cost == NANO_BILL // 2
    # With a pause that the deadline has no room for, the next call pays the standard price: also
    # though the provider said to come back much later, which is flex's word alone.
    provider.script("t-nano", status(429, retry_after=55))
    start = time.monotonic()
    reply = router.completion(messages=HELLO, deadline=time.time() + 60)
    assert time.monotonic() - start < 5
    sent = [body.get("service_tier") for _, _, body in provider.wire[3:]]
    assert sent == ["flex", None]
    assert Router.decision(reply).cost == NANO_BILL
    assert rows(router)[-1].note == "flex failed: RateLimited"
    assert [row.cost for row in rows(router)] == [0, 0, NANO_BILL // 2, 0, NANO_BILL]
    assert_books_agree(router, provider)


def test_a_flex_call_that_the_provider_rejects_is_made_at_the_standard_price(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], deferred={"flex": True}, timeout=TIMEOUT,
        tiers=tiers(provider.url, multipliers=HALF),
    )  # fmt: skip
    provider.script("t-nano", status(400))
    reply = router.completion(messages=HELLO, deadline=time.time() + SOON)
    assert Router.decision(reply).cost == NANO_BILL
    assert_books_agree(router, provider)


def test_the_tier_that_was_served_is_billed(make_router: MakeRouter, provider: Provider) -> None:
    """A provider that serves the standard tier although flex was asked for bills the standard."""
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], deferred={"flex": True}, timeout=TIMEOUT,
        tiers=tiers(provider.url, multipliers=HALF),
    )  # fmt: skip
    provider.script("t-nano", ok(usage={**USAGE, "service_tier": "default"}))
    reply = router.completion(messages=HELLO, deadline=time.time() + SOON)
    assert Router.decision(reply).cost == NANO_BILL


def clock_before(hour: str, seconds: float) -> Callable[[], float]:
    """A clock that goes at the pace of time and shows `hour` UTC of a day so many seconds on."""
    begins = datetime.fromisoformat(f"2026-11-26T{hour}+00:00").timestamp()
    started = time.monotonic()
    return lambda: begins - seconds + time.monotonic() - started


HOURS = [{"from": "16:30", "to": "00:30", "multiplier": "0.25"}]


def test_a_call_waits_for_the_cheaper_hour_and_holds_nothing_meanwhile(
    make_router: MakeRouter, provider: Provider
) -> None:
    clock = clock_before("16:30", 1.5)
    router = make_router(
        clock=clock, budgets=BUDGET, rules=[PIN_NANO], deferred={"off_peak": True},
        timeout=TIMEOUT, tiers=tiers(provider.url, off_peak=HOURS),
    )  # fmt: skip
    assert (
        "waits for other prices at 2026-11-26 16:30 UTC"
        in router.explain(HELLO, deadline=clock() + SOON).reason
    )
    assert provider.wire == []

    async def both() -> tuple[Any, int]:
        waiting = asyncio.ensure_future(router.acompletion(messages=HELLO, deadline=clock() + SOON))
        await asyncio.sleep(0.5)
        held = router.budgets()
        return await waiting, sum(state.held for state in held)

    reply, held = asyncio.run(both())
    assert held == 0
    assert clock() >= datetime.fromisoformat("2026-11-26T16:30+00:00").timestamp()
    assert Router.decision(reply).cost == -(-NANO_BILL // 4)
    reason = Router.decision(reply).decision.reason
    assert "waited for these prices, $0.000096 less than at once" in reason
    assert rows(router)[0].time >= datetime.fromisoformat("2026-11-26T16:30+00:00").timestamp()
    assert_books_agree(router, provider)


def test_a_cache_that_a_wait_outlives_is_not_counted_on(
    make_router: MakeRouter, provider: Provider
) -> None:
    now = datetime.fromisoformat("2026-11-26T14:00+00:00").timestamp()
    router = make_router(
        clock=lambda: now, rules=[PIN_NANO], deferred={"off_peak": True}, timeout=TIMEOUT,
        tiers=tiers(provider.url, off_peak=[{**HOURS[0], "multiplier": "0.01"}]),
    )  # fmt: skip
    history = [{"role": "user", "content": "departs 10:45, arrives 12:05; " * 500}]
    router.completion(messages=history, conversation_id="c")
    history += [{"role": "assistant", "content": "a fine answer"}, *HELLO]
    asked = {"conversation_id": "c", "deadline": now + 6 * SOON}
    walk = router.walk(router.read(history, asked))
    done = None
    while True:
        try:
            effect = walk.send(done)
        except StopIteration as end:
            reply = end.value
            break
        if isinstance(effect, Wait):
            now += effect.seconds
        else:
            done = effect.work() if isinstance(effect, Store) else send(effect.call)
    assert now == datetime.fromisoformat("2026-11-26T16:30+00:00").timestamp()
    cold = router.explain(history, conversation_id="another")
    assert Router.decision(reply).decision.view.quote == cold.view.quote
    assert requests(router)[1].features["cached_tokens"] == 0


def test_an_hour_after_the_deadline_less_a_calls_time_is_not_waited_for(
    make_router: MakeRouter, provider: Provider
) -> None:
    clock = clock_before("16:30", 5)
    router = make_router(
        clock=clock, rules=[PIN_NANO], deferred={"off_peak": True}, timeout=TIMEOUT,
        tiers=tiers(provider.url, off_peak=HOURS),
    )  # fmt: skip
    start = time.monotonic()
    reply = router.completion(messages=HELLO, deadline=clock() + 14)  # 5 s, and 10 for the call
    assert time.monotonic() - start < 4
    assert Router.decision(reply).cost == NANO_BILL


def test_arms_are_compared_at_the_prices_that_would_be_paid(
    make_router: MakeRouter, provider: Provider
) -> None:
    """Frontier at a hundredth of its price is worth more than nano now."""
    found = tiers(provider.url)
    found["frontier"][0]["price"]["multipliers"] = {"flex": "0.001"}
    router = make_router(deferred={"flex": True}, timeout=TIMEOUT, tiers=found,
                         objective={"cost_weight": 100})  # fmt: skip
    hurries = router.explain(HELLO)
    waits = router.explain(HELLO, deadline=time.time() + SOON)
    assert hurries.arm.tier != "frontier"
    assert waits.arm.tier == "frontier"
    reply = router.completion(messages=HELLO, deadline=time.time() + SOON)
    assert Router.decision(reply).decision.arm.tier == "frontier"
    assert provider.wire[0][2]["service_tier"] == "flex"
