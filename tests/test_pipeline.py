"""The whole walk over real HTTP: what was sent, reserved, settled and logged must agree."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from router import Router
from router.errors import (
    AuthenticationFailed,
    InvalidRequest,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)
from tests.conftest import HELLO, MakeRouter, ladder, only
from tests.pipeline_kit import (
    BUDGET,
    NANO_BILL,
    PIN_NANO,
    assert_books_agree,
    cancel_at_once,
    cancel_once_sent,
    requests,
    rows,
)
from tests.provider import Behaviour, Provider, ok, status


def test_a_call_returns_litellms_type_and_settles_the_exact_bill(
    make_router: MakeRouter, provider: Provider
) -> None:
    import litellm

    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    response = router.completion(messages=HELLO, temperature=0.5)
    assert isinstance(response, litellm.ModelResponse)
    assert response.choices[0].message.content == "a fine answer"
    routing = Router.decision(response)
    assert routing.cost == NANO_BILL
    assert routing.decision.arm.tier == "nano"
    assert routing.decision.rule == "pin"
    assert_books_agree(router, provider)
    assert router.budgets()[0].settled == NANO_BILL
    _, _, body = provider.wire[0]
    assert body["temperature"] == 0.5
    assert body["model"] == "t-nano"


def test_async_and_sync_go_the_same_way(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])

    async def call() -> Any:
        return await router.acompletion(messages=HELLO)

    assert Router.decision(asyncio.run(call())).cost == NANO_BILL
    assert Router.decision(router.completion(messages=HELLO)).cost == NANO_BILL
    assert_books_agree(router, provider)


def test_the_reserved_cap_is_the_one_on_the_wire(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    for asked, sent in (
        ({}, 500),
        ({"max_tokens": 40}, 40),
        ({"max_completion_tokens": 60}, 60),
        ({"max_tokens": 40, "max_completion_tokens": 70}, 70),
        ({"max_tokens": 99_999}, 500),
    ):
        response = router.completion(messages=HELLO, **asked)
        _, _, body = provider.wire[-1]
        caps = [body[name] for name in ("max_tokens", "max_completion_tokens") if name in body]
        assert caps == [sent]
        assert Router.decision(response).decision.view.quote.output_cap == sent


def test_a_retry_is_a_new_reservation_and_waits_as_asked(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    provider.script("t-nano", status(429, retry_after=0.2), status(503), ok())
    response = router.completion(messages=HELLO)
    assert Router.decision(response).attempts == 3
    assert provider.models == ["t-nano"] * 3
    logged = rows(router)
    assert [row.status for row in logged] == ["failed", "failed", "answered"]
    assert [row.cost for row in logged] == [0, 0, NANO_BILL]
    assert logged[1].time - logged[0].time >= 0.2
    assert requests(router)[0].accepted == 3
    assert_books_agree(router, provider)


def test_a_retry_after_longer_than_the_policy_waits_goes_to_another_deployment(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[only("nano")])
    router.policy.deployment(router.policy.arms()[0])
    provider.script("t-nano", status(429, retry_after=60))
    provider.script("t-mini", status(429, retry_after=60))
    provider.script("t-mid", status(429, retry_after=60))
    provider.script("t-frontier", status(429, retry_after=60))
    with pytest.raises(RateLimited) as caught:
        router.completion(messages=HELLO)
    assert caught.value.retry_after == 60
    assert len(provider.wire) == len(set(provider.models))


def test_fallback_goes_sideways_then_up_and_never_down(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    spare = {**tiers["mini"][0], "model": "openai/t-mini-spare"}
    tiers = {**tiers, "mini": [tiers["mini"][0], spare]}
    rule = {"name": "mini", "when": {"tags": ["mini"]}, "at_least": "mini"}
    router = make_router(
        tiers=tiers, rules=[rule], retry={"attempts": 1}, objective={"cost_weight": 1e6}
    )
    for model in ("t-mini", "t-mini-spare", "t-mid"):
        provider.script(model, status(503))
    response = router.completion(messages=HELLO, tags=["mini"])
    assert provider.models == ["t-mini", "t-mini-spare", "t-mid", "t-frontier"]
    assert "fallback after ProviderUnavailable" in Router.decision(response).decision.reason
    assert_books_agree(router, provider)


def test_every_tier_failing_is_one_clear_error_and_nothing_stays_held(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, retry={"attempts": 2, "initial_wait": 0.0})
    provider.default = status(500)
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    assert requests(router)[0].status == "failed"
    assert router.budgets()[0].settled == 0
    assert_books_agree(router, provider)


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, RequestRejected), (422, RequestRejected), (401, AuthenticationFailed)],
)
def test_a_request_that_fails_everywhere_is_sent_once(
    make_router: MakeRouter, provider: Provider, code: int, error: type[Exception]
) -> None:
    router = make_router(budgets=BUDGET, rules=[only("nano")], objective={"cost_weight": 1e6})
    provider.script("t-nano", status(code))
    with pytest.raises(error):
        router.completion(messages=HELLO)
    assert provider.models == ["t-nano"]
    assert router.budgets()[0].settled == 0
    assert_books_agree(router, provider)


def test_a_lost_answer_is_charged_as_reserved(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO], retry={"attempts": 1})
    provider.script("t-nano", Behaviour(cut=True))
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    (row,) = rows(router)
    assert (row.cost, row.cost_source) == (row.reserved, "assumed")
    assert_books_agree(router, provider)


def test_a_read_timeout_is_charged_as_reserved(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], retry={"attempts": 1}, timeout={"read": 0.3, "total": 20}
    )
    provider.script("t-nano", Behaviour(delay=2))
    with pytest.raises(ProviderTimeout):
        router.completion(messages=HELLO)
    assert rows(router)[0].cost == rows(router)[0].reserved
    assert_books_agree(router, provider)


def test_no_connection_costs_nothing(make_router: MakeRouter, provider: Provider) -> None:
    policy = ladder("http://127.0.0.1:9/v1")
    router = make_router(
        tiers=policy["tiers"],
        budgets=BUDGET,
        rules=[PIN_NANO],
        retry={"attempts": 1},
    )
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    (row,) = rows(router)
    assert (row.cost, row.status) == (0, "failed")
    assert router.budgets()[0].settled == 0


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": -5, "completion_tokens": 3, "total_tokens": -2},
        {"prompt_tokens": 5, "completion_tokens": 10**12, "total_tokens": 5 + 10**12},
        {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 6},
        },
    ],
)
def test_an_unusable_usage_report_is_charged_by_assumption_never_as_free(
    make_router: MakeRouter, provider: Provider, usage: Any
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    provider.script("t-nano", ok(usage=usage))
    router.completion(messages=HELLO)
    (row,) = rows(router)
    assert row.cost_source == "assumed"
    assert 0 < row.cost <= row.reserved
    assert row.note is not None
    assert_books_agree(router, provider)


def test_a_page_of_html_instead_of_an_answer_is_an_error_and_charged(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO], retry={"attempts": 1, "fallback": False})
    provider.script("t-nano", Behaviour(body=b"<html>Welcome to the hotel</html>"))
    with pytest.raises(Exception, match="t-nano"):
        router.completion(messages=HELLO)
    (row,) = rows(router)
    assert row.cost == row.reserved
    assert_books_agree(router, provider)


def test_a_cancelled_call_is_charged_as_reserved_and_leaves_nothing_held(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    provider.script("t-nano", Behaviour(delay=2))

    cancel_once_sent(provider, lambda: router.acompletion(messages=HELLO))
    (row,) = rows(router)
    assert (row.status, row.cost) == ("abandoned", row.reserved)
    assert requests(router)[0].status == "abandoned"
    assert_books_agree(router, provider)


def test_a_call_that_is_cancelled_before_it_is_sent_costs_nothing(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    cancel_at_once(router)
    assert provider.wire == []
    (row,) = rows(router)
    assert (row.status, row.cost) == ("abandoned", 0)
    assert router.ledger.verify() == []
    assert [state.held + state.settled for state in router.budgets()] == [0]


@pytest.mark.parametrize("scope", ["asyncio", "anyio"])
def test_a_cancellation_comes_back_to_the_scope_that_it_is_of(
    make_router: MakeRouter, provider: Provider, scope: str
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])

    async def call() -> str:
        if scope == "anyio":
            with anyio.move_on_after(0):
                await router.acompletion(messages=HELLO)
            return "went on"
        try:
            async with asyncio.timeout(0):
                await router.acompletion(messages=HELLO)
        except TimeoutError:
            return "went on"
        return "answered"

    assert asyncio.run(call()) == "went on"
    assert provider.wire == []
    assert [(row.status, row.cost) for row in rows(router)] == [("abandoned", 0)]


def test_a_cancellation_is_not_lost_to_a_refusal_that_comes_first(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=[{"name": "all", "limit": "0.000001"}], rules=[PIN_NANO])

    async def call() -> None:
        async with asyncio.timeout(0):
            await router.acompletion(messages=HELLO)

    with pytest.raises(TimeoutError):
        asyncio.run(call())
    assert [row.status for row in requests(router)] == ["refused"]


def test_a_call_that_is_left_between_two_attempts_ends_in_the_log(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = {"budgets": BUDGET, "rules": [PIN_NANO], "retry": {"max_wait": 9}}
    router, other = make_router(**kind), make_router(**kind)
    provider.default = status(503, retry_after=5)
    cancel_once_sent(provider, lambda: other.acompletion(messages=HELLO), after=0.5)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("router.dispatch.effects.time", SimpleNamespace(sleep=interrupted))
    with pytest.raises(KeyboardInterrupt):
        router.completion(messages=HELLO)
    assert [row.cost for row in rows(router)] == [0, 0]
    assert [(row.status, row.error) for row in requests(router)] == [
        ("abandoned", "CancelledError"),
        ("abandoned", "KeyboardInterrupt"),
    ]
    assert_books_agree(router, provider)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_in_the_middle_of_reserving_holds_nothing(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    real = router.ledger.reserve

    def interrupted(reservation: Any) -> None:
        if when == "after":
            real(reservation)
        raise KeyboardInterrupt

    monkeypatch.setattr(router.ledger, "reserve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        router.completion(messages=HELLO)
    assert provider.wire == []
    assert {row.cost for row in rows(router)} <= {0}
    assert {request.status for request in requests(router)} <= {"abandoned"}
    assert [state.held + state.settled for state in router.budgets()] == [0]
    assert router.ledger.verify() == []


def test_feedback_joins_the_request_and_shows_in_the_report(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO])
    response = router.completion(messages=HELLO, tags=["greeting"])
    router.feedback(response, 1.0)
    router.feedback(Router.decision(response).request_id, 0.5)
    assert requests(router)[0].label == 0.5
    report = router.report()
    assert report.by_tag["greeting"].quality == 0.5
    with pytest.raises(InvalidRequest, match="no-such"):
        router.feedback("no-such-request", 1.0)


def test_the_baseline_is_the_frontiers_own_prediction_until_it_answers_itself(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        rules=[
            PIN_NANO,
        ]
    )
    decision = Router.decision(router.completion(messages=HELLO)).decision
    frontier = next(view for view in decision.arms if view.arm.tier == "frontier")
    assert requests(router)[0].baseline == frontier.quote.expected
    pinned = {"name": "top", "when": {"min_input_tokens": 0}, "tier": "frontier"}
    top = make_router(rules=[pinned])
    response = top.completion(messages=HELLO)
    assert requests(top)[-1].baseline == Router.decision(response).cost


def test_content_is_logged_only_where_the_policy_opts_in(
    make_router: MakeRouter, tmp_path: Path
) -> None:
    silent = make_router(rules=[PIN_NANO])
    silent.completion(messages=HELLO)
    assert requests(silent)[0].content is None
    assert rows(silent)[0].answer is None
    for file in tmp_path.glob("router.db*"):
        assert b"new colleague" not in file.read_bytes()
        assert b"a fine answer" not in file.read_bytes()
    keeping = make_router(rules=[PIN_NANO], log={"content": True})
    keeping.completion(messages=HELLO)
    assert "new colleague" in str(requests(keeping)[-1].content)
    assert "a fine answer" in str(rows(keeping)[-1].answer)


def test_explain_sends_and_reserves_nothing(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(budgets=BUDGET)
    decision = router.explain(HELLO)
    assert sum(view.propensity for view in decision.arms) == 1.0
    assert sum(view.rejected is None for view in decision.arms) == 1
    assert provider.wire == []
    assert rows(router) == []
