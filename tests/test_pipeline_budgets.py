"""Every kind of budget through the whole walk over real HTTP."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from router import Router
from router.errors import BudgetExceeded, InvalidRequest, ProviderUnavailable
from router.types import Reservation
from tests.conftest import HELLO, MakeRouter, ladder, only, usd
from tests.ledger_kit import attempt_row, request_row, reserve
from tests.pipeline_kit import (
    NANO_BILL,
    PIN_NANO,
    assert_books_agree,
    cancel_at_once,
    requests,
    rows,
)
from tests.provider import Behaviour, Provider, ok, status

NANO_TOKENS = 20 + 10  # of provider.USAGE
BEST = {"cost_weight": 0}  # the best arm, whatever it costs


def tier_of(response: Any) -> str:
    return Router.decision(response).decision.arm.tier


def pin(tier: str, tag: str) -> dict[str, Any]:
    return {"name": f"pin-{tier}", "when": {"tags": [tag]}, "tier": tier}


def test_a_budget_of_tokens_is_settled_at_the_reported_tokens(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=[{"name": "t", "tokens": 2000}], rules=[PIN_NANO])
    router.completion(messages=HELLO, max_tokens=100)
    [state] = router.budgets()
    assert (state.settled, state.held) == (NANO_TOKENS, 0)
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO, max_tokens=100, n=20)
    assert (caught.value.meter, caught.value.used) == ("tokens", NANO_TOKENS)
    assert len(provider.wire) == 1


def test_a_call_without_any_price_still_counts_its_tokens(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    unpriced = {name: value for name, value in tiers["nano"][0].items() if name != "price"}
    router = make_router(
        tiers={**tiers, "nano": [unpriced]}, rules=[PIN_NANO], objective=BEST,
        budgets=[{"name": "t", "tokens": 900}],
    )  # fmt: skip
    router.completion(messages=HELLO)
    assert router.budgets()[0].settled == NANO_TOKENS


def test_what_nothing_bounds_is_refused_under_a_limit_on_tokens_and_served_without(
    make_router: MakeRouter, provider: Provider, tmp_path: Any
) -> None:
    tiers = ladder(provider.url)["tiers"]
    able = {"audio": True, "context_window": None}
    deaf = {name: value for name, value in tiers["nano"][0].items() if name != "price"}
    deaf["capabilities"] = {**deaf["capabilities"], **able}
    speech = [
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}],
        }
    ]
    free = make_router(tiers={"nano": [deaf], "frontier": tiers["frontier"]}, objective=BEST)
    assert tier_of(free.completion(messages=speech)) == "nano"
    limited = make_router(
        tiers={"nano": [deaf], "frontier": tiers["frontier"]}, objective=BEST,
        budgets=[{"name": "t", "tokens": 10**9}], store=f"sqlite:///{tmp_path / 't.db'}",
    )  # fmt: skip
    with pytest.raises(BudgetExceeded, match="tokens"):
        limited.completion(messages=speech)
    with pytest.raises(InvalidRequest, match="web_search_options"):
        limited.completion(messages=HELLO, web_search_options={})
    assert len(provider.wire) == 1


def test_a_budget_of_requests_counts_every_billed_attempt(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=[{"name": "r", "requests": 3}], rules=[PIN_NANO])
    provider.script("t-nano", status(503), Behaviour(cut=True), ok())
    router.completion(messages=HELLO)  # a refusal, a lost answer and an answer
    assert router.budgets()[0].settled == 2
    router.completion(messages=HELLO)
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO)
    assert (caught.value.meter, caught.value.used) == ("requests", 3)
    assert router.ledger.verify() == []


def test_a_call_that_was_cancelled_before_it_was_sent_counts_nowhere(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=[{"name": "r", "requests": 3}, {"name": "t", "tokens": 2000}], rules=[PIN_NANO]
    )
    cancel_at_once(router)
    assert [row.status for row in rows(router)] == ["abandoned"]
    assert [(state.settled, state.held) for state in router.budgets()] == [(0, 0), (0, 0)]


def test_where_the_frontier_s_budget_is_used_up_the_next_tier_is_taken(
    make_router: MakeRouter, provider: Provider
) -> None:
    top = {"name": "top", "limit": "0.05", "scope": "tier", "value": "frontier"}
    router = make_router(objective=BEST, budgets=[{**top, "on_exceed": "downgrade"}])
    first = router.completion(messages=HELLO)
    assert tier_of(first) == "frontier"
    router.ledger.set_limit("top", 1, now=time.time())
    response = router.completion(messages=HELLO)
    decision = Router.decision(response).decision
    assert decision.arm.tier == "mid"
    assert "budget_downgrade" in decision.reason
    barred = {view.arm.tier: view.rejected for view in decision.arms}
    assert "more than budget 'top' has left" in str(barred["frontier"])
    assert barred["mini"] is None or "budget" not in barred["mini"]
    [state] = router.budgets()
    assert state.settled == Router.decision(first).cost
    assert router.ledger.verify() == []


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ({"share": 0.2}, "is one more request, more than budget 'top' has left"),
        ({"requests": 0}, "is one more request, more than budget 'top' has left"),
        ({"tokens": 9}, r"may take \d+ tokens, more than budget 'top' has left"),
        ({"limit": "0.000001"}, r"may cost \$0\.\d+, more than budget 'top' has left"),
    ],
)
def test_an_arm_that_a_budget_has_no_room_for_names_the_budget_and_what_it_counts(
    make_router: MakeRouter, budget: dict[str, Any], why: str
) -> None:
    top = {"name": "top", "scope": "tier", "value": "frontier", "on_exceed": "downgrade"}
    router = make_router(objective=BEST, budgets=[{**top, **budget}, {"name": "all", "limit": "9"}])
    decision = router.explain(HELLO, max_tokens=50)
    assert decision.arm.tier == "mid"
    [rejected] = [view.rejected or "" for view in decision.arms if view.arm.tier == "frontier"]
    assert re.fullmatch(why, rejected)


def test_a_model_s_own_budget_downgrades_from_that_model_alone(
    make_router: MakeRouter, provider: Provider
) -> None:
    shut = {"name": "m", "limit": "0", "when": {"model": "t-frontier"}, "on_exceed": "downgrade"}
    router = make_router(objective=BEST, budgets=[shut])
    assert tier_of(router.completion(messages=HELLO)) == "mid"
    assert provider.models == ["t-mid"]


@pytest.mark.parametrize("name", ["t-frontier", "openai/t-frontier"])
def test_a_budget_of_the_scope_model_is_of_the_model_that_it_names_in_full_or_not(
    make_router: MakeRouter, provider: Provider, name: str
) -> None:
    shut = {"name": "m", "limit": "0", "scope": "model", "value": name, "on_exceed": "downgrade"}
    router = make_router(objective=BEST, budgets=[shut])
    assert tier_of(router.completion(messages=HELLO)) == "mid"
    assert [state.scope_value for state in router.budgets()] == ["openai/t-frontier"]


def test_the_frontier_s_share_is_kept_by_taking_the_next_tier(
    make_router: MakeRouter, provider: Provider
) -> None:
    share = {"name": "s", "share": 0.25, "scope": "tier", "value": "frontier"}
    router = make_router(objective=BEST, budgets=[{**share, "on_exceed": "downgrade"}])
    for _ in range(8):
        router.completion(messages=HELLO)
    assert provider.models == (["t-mid"] * 3 + ["t-frontier"]) * 2
    [state] = router.budgets()
    assert (state.settled, state.seen) == (2, 8)
    assert router.ledger.verify() == []


def test_a_share_that_blocks_says_of_what_it_is(
    make_router: MakeRouter, provider: Provider
) -> None:
    share = {"name": "s", "share": 0.5, "scope": "tier", "value": "frontier"}
    router = make_router(objective=BEST, budgets=[share])
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO)
    assert (caught.value.meter, caught.value.scope_value) == ("share", "frontier")
    assert provider.wire == []


def test_each_tag_pays_and_one_that_is_full_refuses(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=[{"name": "t", "requests": 2, "scope": "tag"}], rules=[PIN_NANO])
    router.completion(messages=HELLO, tags=["a", "b"])
    router.completion(messages=HELLO, tags=["b"])
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO, tags=["a", "b"])
    assert caught.value.scope_value == "b"
    router.completion(messages=HELLO, tags=["a"])
    assert {s.scope_value: s.settled for s in router.budgets()} == {"a": 2, "b": 2}


def test_a_conversation_s_ceiling_holds_over_its_requests(
    make_router: MakeRouter, provider: Provider
) -> None:
    ceiling = {"name": "c", "requests": 2, "scope": "conversation"}
    router = make_router(budgets=[ceiling], rules=[PIN_NANO])
    for _ in range(2):
        router.completion(messages=HELLO, conversation_id="one")
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO, conversation_id="one")
    assert caught.value.scope_value == "one"
    router.completion(messages=HELLO, conversation_id="two")


def test_a_request_s_ceiling_holds_over_its_retries(
    make_router: MakeRouter, provider: Provider
) -> None:
    """A lost answer is charged as reserved; what is left is less than the prompt alone may cost."""
    upper = make_router(rules=[PIN_NANO]).explain(HELLO).view.quote.upper
    assert upper is not None
    nano = upper + (upper - 500 * 1250) - 1
    ceiling = {"name": "one", "limit": f"{nano / 1e9:.9f}", "scope": "request"}
    router = make_router(budgets=[ceiling], rules=[PIN_NANO])
    provider.script("t-nano", Behaviour(cut=True))
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO)
    assert caught.value.budget == "one"
    assert isinstance(caught.value.__cause__, ProviderUnavailable)
    assert len(provider.wire) == 1
    [request] = requests(router)
    assert request.status == "refused"
    [state] = router.budgets()
    assert state.settled == sum(row.cost or 0 for row in rows(router)) <= nano
    router.completion(messages=HELLO)  # another request has a ceiling of its own


def test_a_request_s_ceiling_holds_over_its_fallbacks(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=[{"name": "one", "requests": 2, "scope": "request"}],
        rules=[only("nano")],
        objective={"cost_weight": 1e6},
        retry={"attempts": 1},
    )
    for model in ("t-nano", "t-mini", "t-mid"):
        provider.script(model, Behaviour(cut=True))
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO)
    assert provider.models == ["t-nano", "t-mini"]
    assert (caught.value.used, caught.value.limit) == (2, 2)
    assert isinstance(caught.value.__cause__, ProviderUnavailable)


def test_calls_of_the_router_s_own_are_overhead_of_the_report(make_router: MakeRouter) -> None:
    router = make_router(
        budgets=[
            {"name": "judges", "limit": "0.001", "purpose": "judge"},
            {"name": "answers", "limit": "1"},
        ],
        rules=[PIN_NANO],
    )
    router.completion(messages=HELLO)
    before = router.report()
    now = time.time()
    router.ledger.reserve(Reservation(
        "j/1", 1000, scopes={"purpose": "judge"}, now=now, expires_at=now + 60,
        worst_case=attempt_row("j", cost=1000), request=request_row("j", purpose="judge"),
    ))  # fmt: skip
    router.ledger.settle("j/1", attempt_row("j", cost=900), None, now)
    after = router.report()
    assert {s.budget.name: s.settled for s in router.budgets()} == {
        "answers": NANO_BILL,
        "judges": 900,
    }
    assert (before.overhead, after.overhead) == (0, 900)
    assert after.total == before.total
    assert after.net_saved == before.net_saved - 900


# ── queue ──────────────────────────────────────────────────────────────────────────────────────
Door = Callable[..., Any]


def sync_door(router: Router, **arguments: Any) -> Any:
    return router.completion(messages=HELLO, **arguments)


def async_door(router: Router, **arguments: Any) -> Any:
    return asyncio.run(router.acompletion(messages=HELLO, **arguments))


DOORS = pytest.mark.parametrize("door", [sync_door, async_door])
TURN = {"name": "q", "requests": 1, "on_exceed": "queue"}


@DOORS
def test_a_queue_waits_for_the_reset(
    make_router: MakeRouter, provider: Provider, door: Door
) -> None:
    router = make_router(budgets=[{**TURN, "window": "rolling", "seconds": 1}], rules=[PIN_NANO])
    door(router)
    began = time.monotonic()
    door(router)
    assert 0.5 < time.monotonic() - began < 15
    first, second = rows(router)
    assert second.time - first.time >= 1
    assert [request.status for request in requests(router)] == ["answered"] * 2


@DOORS
def test_a_queue_waits_for_a_release(
    make_router: MakeRouter, provider: Provider, door: Door
) -> None:
    router = make_router(budgets=[TURN], rules=[PIN_NANO])
    now = time.time()
    reserve(router.ledger, "other", 0, now=now, ttl=60)
    row = attempt_row("other", cost=0, status="failed")
    freeing = threading.Timer(0.5, lambda: router.ledger.release("other/1", row, None, now))
    freeing.start()
    door(router)
    freeing.join()
    assert provider.models == ["t-nano"]
    assert [(state.settled, state.held) for state in router.budgets()] == [(1, 0)]


@DOORS
def test_a_queue_gives_up_at_once_where_the_reset_is_too_far(
    make_router: MakeRouter, provider: Provider, door: Door
) -> None:
    router = make_router(budgets=[{**TURN, "window": "rolling", "seconds": 3600}], rules=[PIN_NANO])
    door(router)
    began = time.monotonic()
    with pytest.raises(BudgetExceeded) as caught:
        door(router)
    assert time.monotonic() - began < 3
    assert caught.value.on_exceed == "queue"
    assert caught.value.resets_at is not None
    assert 3500 < caught.value.resets_at - time.time() < 3700
    assert requests(router)[-1].status == "refused"
    assert len(provider.wire) == 1


@DOORS
def test_a_queue_waits_no_longer_than_the_request_may_take(
    make_router: MakeRouter, provider: Provider, door: Door
) -> None:
    router = make_router(
        budgets=[TURN], rules=[PIN_NANO], timeout={"connect": 1, "read": 1, "total": 1}
    )
    now = time.time()
    reserve(router.ledger, "other", 0, now=now, ttl=60)
    began = time.monotonic()
    with pytest.raises(BudgetExceeded):
        door(router)
    assert 0.9 < time.monotonic() - began < 10
    assert provider.wire == []


def test_a_request_larger_than_the_whole_budget_is_not_queued(
    make_router: MakeRouter, provider: Provider
) -> None:
    small = {"name": "q", "limit": "0.0001", "on_exceed": "queue"}
    router = make_router(budgets=[small], rules=[PIN_NANO])
    now = time.time()
    reserve(router.ledger, "other", 1000, now=now, ttl=60)
    began = time.monotonic()
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO)
    assert time.monotonic() - began < 5
    assert caught.value.needed > caught.value.limit == usd("0.0001")


def test_of_many_who_queue_each_gets_a_turn(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(
        budgets=[{**TURN, "scope": "request"}, {"name": "w", "limit": "0.0015",
                  "on_exceed": "queue"}],
        rules=[PIN_NANO],
    )  # fmt: skip
    threads = [threading.Thread(target=sync_door, args=(router,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(provider.wire) == 6
    assert [request.status for request in requests(router)] == ["answered"] * 6
    assert router.ledger.verify() == []


def test_a_budget_that_blocks_is_asked_once_beside_one_that_downgrades(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(
        budgets=[
            {"name": "block", "limit": "0.0000001"},
            {"name": "down", "limit": "100", "on_exceed": "downgrade"},
        ]
    )
    asked = []
    real = router.ledger.reserve
    monkeypatch.setattr(
        router.ledger, "reserve", lambda *given, **more: (asked.append(1), real(*given, **more))
    )
    with pytest.raises(BudgetExceeded, match="block"):
        router.completion(messages=HELLO)
    assert len(asked) == 1
    assert_books_agree(router, provider)
