"""How much a call reserves: the whole cap, its predicted P95, or what a budget has left."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router
from router.errors import BudgetExceeded
from router.planning.caps import (
    SHARE,
    SHORTEST_CAP,
    SHORTEST_REASONED_ANSWER,
    TIMES,
    floor_of,
    within,
)
from router.planning.deciding import decide
from router.planning.ladder import Ladder
from router.planning.make import make_plan
from router.planning.plan import Plan
from router.planning.quotes import quoter
from router.policy import load_policy
from router.predict import extract, shape_of
from router.predict.effort import Efforts
from router.prices import load_book
from router.types import Budget, BudgetState, Prediction, Request, Room
from tests.conftest import HELLO, MakeRouter, ladder, usd
from tests.pipeline_kit import BUDGET, NANO_BILL, PIN_NANO, assert_books_agree, rows
from tests.provider import USAGE, Behaviour, Provider, ok

DEAR = {"name": "dear", "when": {"min_input_tokens": 0}, "tier": "frontier"}
GENEROUS = {"max_output_tokens": 1_000_000}


def caps_on_the_wire(provider: Provider) -> list[int]:
    return [body["max_tokens"] for _, _, body in provider.wire]


def roomy_tiers(provider: Provider) -> dict[str, Any]:
    """The test's tiers, of models that may answer with a million tokens."""
    tiers = ladder(provider.url)["tiers"]
    for (deployment,) in tiers.values():
        deployment["capabilities"] |= {"context_window": 2_000_000, "max_output_tokens": 1_000_000}
    return dict(tiers)


def cut_short(tokens: int) -> Behaviour:
    message = {"role": "assistant", "content": "half of"}
    usage = {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    return ok(body=as_json({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
                            "choices": [choice], "usage": usage}))  # fmt: skip


def as_json(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


# ── a large max_tokens does not block ──────────────────────────────────────────────────────────
@pytest.mark.parametrize("on_exceed", ["block", "downgrade"])
def test_a_key_with_25_dollars_is_not_blocked_because_max_tokens_is_large(
    make_router: MakeRouter, provider: Provider, on_exceed: str
) -> None:
    router = make_router(
        tiers=roomy_tiers(provider),
        limits=GENEROUS,
        rules=[DEAR],
        budgets=[{"name": "key", "limit": "25", "on_exceed": on_exceed}],
    )
    reply = router.completion(messages=HELLO, max_tokens=1_000_000)  # $60: it does not fit
    quoted = Router.decision(reply).decision.view.quote
    (cap,) = caps_on_the_wire(provider)
    assert cap == quoted.output_cap
    assert quoted.upper == rows(router)[0].reserved
    # A sixteenth of the room is taken: others may call meanwhile.
    assert usd("1.56") < quoted.upper <= usd("1.5625")
    assert 25_900 < cap < 26_100
    assert_books_agree(router, provider)


def test_calls_at_the_same_time_share_what_a_large_cap_leaves(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        tiers=roomy_tiers(provider),
        limits=GENEROUS,
        rules=[DEAR],
        budgets=[{"name": "key", "limit": "25"}],
    )
    provider.default = Behaviour(delay=0.5)
    failed: list[Exception] = []

    def call() -> None:
        try:
            router.completion(messages=HELLO, max_tokens=1_000_000)
        except BudgetExceeded as error:
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(provider.wire) == 6
    assert sum(row.reserved for row in rows(router)) <= usd("25")
    assert_books_agree(router, provider)


def test_a_cap_that_fits_is_never_lowered(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(
        tiers=roomy_tiers(provider),
        limits=GENEROUS,
        rules=[DEAR],
        budgets=[{"name": "key", "limit": "25"}],
    )
    router.completion(messages=HELLO, max_tokens=400_000)  # $24
    assert caps_on_the_wire(provider) == [400_000]


def test_a_cap_is_not_lowered_below_what_answers_are_predicted_to_need(
    make_router: MakeRouter, provider: Provider
) -> None:
    enough = 120 * 10_000 + 256 * 60_000  # nano-USD: HELLO's bound and 256 tokens at frontier
    for limit, fits in ((f"0.{enough:09d}", True), (f"0.{enough - 1_500_000:09d}", False)):
        router = make_router(
            rules=[DEAR], budgets=[{"name": f"at {limit}", "limit": limit, "on_exceed": "block"}]
        )
        sent = len(provider.wire)
        if fits:
            router.completion(messages=HELLO, max_tokens=500)
            assert SHORTEST_CAP <= caps_on_the_wire(provider)[-1] < 500
        else:
            with pytest.raises(BudgetExceeded) as caught:
                router.completion(messages=HELLO, max_tokens=500)
            assert caught.value.limit == usd(limit)
            assert len(provider.wire) == sent


def test_a_cheaper_tier_in_full_comes_before_a_dear_one_cut_down(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        objective={"cost_weight": 0},
        budgets=[{"name": "small", "limit": "0.02", "on_exceed": "downgrade"}],
    )
    reply = router.completion(messages=HELLO, max_tokens=500)  # frontier: $0.031, mid: $0.0078
    assert Router.decision(reply).decision.arm.tier == "mid"
    assert caps_on_the_wire(provider) == [500]


# ── reserve: predicted ─────────────────────────────────────────────────────────────────────────
def test_under_predicted_the_hold_and_the_cap_are_the_predicted_p95(
    make_router: MakeRouter, provider: Provider
) -> None:
    sound = make_router(rules=[PIN_NANO], budgets=BUDGET, limits=GENEROUS)
    predicted = make_router(rules=[PIN_NANO], budgets=BUDGET, limits=GENEROUS, reserve="predicted")
    sound.completion(messages=HELLO)
    reply = predicted.completion(messages=HELLO)
    assert caps_on_the_wire(provider) == [16_384, SHORTEST_CAP]  # the P95 is 100 tokens here
    full, lowered = (row.reserved for row in rows(predicted))
    assert full - lowered == (16_384 - SHORTEST_CAP) * 1_250
    assert Router.decision(reply).decision.view.quote.output_cap == SHORTEST_CAP
    assert_books_agree(predicted, provider)


def test_under_predicted_a_smaller_cap_of_the_callers_own_stands(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], budgets=BUDGET, reserve="predicted")
    provider.script("t-nano", cut_short(40))
    reply = router.completion(messages=HELLO, max_tokens=40)
    assert caps_on_the_wire(provider) == [40]
    assert reply.choices[0].finish_reason == "length"  # as the caller asked: it is not asked again


def test_an_answer_cut_at_a_predicted_cap_is_asked_for_once_more_in_full(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], budgets=BUDGET, reserve="predicted")
    provider.script("t-nano", cut_short(SHORTEST_CAP), ok())
    reply = router.completion(messages=HELLO)
    assert reply.choices[0].message.content == "a fine answer"
    assert caps_on_the_wire(provider) == [SHORTEST_CAP, 500]
    first, second = rows(router)
    assert first.cost == 20 * 200 + SHORTEST_CAP * 1_250  # both were billed
    assert second.cost == NANO_BILL
    (request,) = router.ledger.log().requests()
    assert (request.status, request.accepted) == ("answered", 2)
    assert Router.decision(reply).attempts == 2
    assert_books_agree(router, provider)


@pytest.mark.parametrize("then", ["no room", "failure"])
def test_a_cut_answer_is_returned_where_a_longer_one_cannot_be_had(
    make_router: MakeRouter, provider: Provider, then: str
) -> None:
    limit = "0.0006" if then == "no room" else "1"  # enough for 256 tokens, not for 500 then
    router = make_router(
        rules=[PIN_NANO],
        budgets=[{"name": "b", "limit": limit}],
        reserve="predicted",
        retry={"attempts": 1, "fallback": False},
    )
    provider.script("t-nano", cut_short(SHORTEST_CAP), Behaviour(status=500, body=b"{}"))
    reply = router.completion(messages=HELLO)
    assert reply.choices[0].finish_reason == "length"
    (request,) = router.ledger.log().requests()
    assert (request.status, request.accepted) == ("answered", 1)
    assert_books_agree(router, provider)


def test_a_stream_keeps_its_cap_under_predicted(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], budgets=BUDGET, reserve="predicted")
    list(router.completion(messages=HELLO, stream=True))
    assert caps_on_the_wire(provider) == [500]


# ── whatever the cap, the quote is the router's own ────────────────────────────────────────────
LONG_SYSTEM = {"role": "system", "content": "Name the branch that a customer should call. " * 200}


def plan_of(
    params: dict[str, Any],
    p95: float = 300.0,
    effort: str | None = None,
    messages: list[dict[str, Any]] = HELLO,
) -> Plan:
    policy = ladder("http://127.0.0.1:9", limits={"max_output_tokens": 16_000})
    for [deployment] in policy["tiers"].values():
        deployment["price"]["cache_read"] = "0.01"
    if effort:
        policy["tiers"]["nano"][0]["effort"] = effort
    prepared = Ladder.of(load_policy(policy), load_book(), Efforts({"high": 2.0}))
    request = Request("r", messages, params, now=1.79e9)
    prediction = Prediction(
        *(np.full(4, value) for value in (0.8, 0.1, 100.0, 90.0, 250.0, p95)), novel=np.array(False)
    )
    shape = shape_of(request.messages, request.params)
    return make_plan(prepared, request, shape, extract(request), prediction)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.integers(1, 20_000),
            "n": st.integers(1, 8),
            "prediction": st.just({"type": "content", "content": "maybe this"}),
            "service_tier": st.just("default"),
        },
    ),
    st.integers(0, 10**9),
    st.sampled_from([HELLO, [LONG_SYSTEM, *HELLO]]),
)
@settings(max_examples=100, deadline=None)
def test_a_lowered_cap_is_quoted_as_if_it_had_been_asked_for(
    params: dict[str, Any], room: int, messages: list[dict[str, Any]]
) -> None:
    plan = plan_of(params, messages=messages)
    lowered = within(plan, room)
    for index, (before, after) in enumerate(zip(plan.quotes, lowered.quotes, strict=True)):
        assert before.upper is not None
        assert after.upper is not None
        if before.upper <= room:
            assert after == before
        elif after != before:
            assert after.upper <= room
            floor = floor_of(plan, index)
            assert floor <= after.output_cap < before.output_cap
            assert after.upper <= room // SHARE or after.output_cap <= TIMES * floor
            asked = {**params, "max_tokens": after.output_cap}
            assert after == plan_of(asked, messages=messages).quotes[index]
        assert int(lowered.options.upper[0, index]) == after.upper


def test_the_lowest_cap_is_the_p95_of_the_arms_own_effort() -> None:
    assert floor_of(plan_of({}), 0) == 300
    assert floor_of(plan_of({}, p95=12.5), 0) == SHORTEST_CAP
    assert floor_of(plan_of({}, effort="high"), 0) == 4_096 + SHORTEST_REASONED_ANSWER
    assert floor_of(plan_of({}, p95=4_000.0, effort="high"), 0) == 8_000
    assert floor_of(plan_of({"reasoning_effort": "low"}), 0) == 1_024 + SHORTEST_REASONED_ANSWER


@given(st.lists(st.integers(0, 40_000_000), max_size=3), st.integers(1, 16_000))
@settings(max_examples=60, deadline=None)
def test_what_a_plan_decides_fits_the_room_or_nothing_would_have(
    left: list[int], max_tokens: int
) -> None:
    plan = plan_of({"max_tokens": max_tokens})
    room = Room(
        tuple(
            BudgetState(Budget(str(at), amount, on_exceed="downgrade"), "", "", 0, 0, limit=amount)
            for at, amount in enumerate(left)
        )
    )
    least = room.remaining()
    try:
        decision = decide(plan, room)
    except BudgetExceeded:
        assert least is not None
        quote_arm = quoter(plan.ladder, plan.request, plan.shape, plan.calls)
        floors = [
            quote_arm(index, 0.0, min(quoted.output_cap, floor_of(plan, index))).upper
            for index, quoted in enumerate(plan.quotes)
        ]
        assert all(floor is not None and floor > least for floor in floors)
        return
    upper = decision.view.quote.upper
    assert upper is not None
    assert least is None or upper <= least


def test_the_usage_of_the_provider_is_below_the_lowered_caps() -> None:
    assert USAGE["completion_tokens"] < SHORTEST_CAP  # else these tests would show overruns
