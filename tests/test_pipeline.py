"""The whole walk over real HTTP: what was sent, reserved, settled and logged must agree."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ConfigurationError,
    InvalidRequest,
    LedgerCorrupt,
    LedgerUnavailable,
    NoCapableDeployment,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
    UnknownPrice,
)
from router.ledger.sqlite.store import SqliteStore
from tests.conftest import HELLO, MakeRouter, ladder, only, usd
from tests.provider import Behaviour, Provider, ok, status

NANO_BILL = 16 * 200 + 4 * 20 + 10 * 1250  # nano-USD of provider.USAGE at nano's prices
PIN_NANO = {"name": "pin", "when": {"min_input_tokens": 0}, "tier": "nano"}


def rows(router: Router) -> list[Any]:
    return list(router.ledger.log().attempts())


def requests(router: Router) -> list[Any]:
    return list(router.ledger.log().requests())


def assert_books_agree(router: Router, provider: Provider) -> None:
    """One reservation for each wire request, nothing held, every invariant of the ledger."""
    assert len(rows(router)) == len(provider.wire)
    assert router.ledger.verify() == []
    assert all(state.held == 0 for state in router.budgets())
    spent = sum(row.cost or 0 for row in rows(router))
    for state in router.budgets():
        assert state.settled == spent


BUDGET = [{"name": "all", "limit": "1.00", "window": "total"}]


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


def test_a_block_budget_refuses_before_anything_is_sent(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=[{"name": "tiny", "limit": "0.0000001", "on_exceed": "block"}], rules=[PIN_NANO]
    )
    with pytest.raises(BudgetExceeded) as caught:
        router.completion(messages=HELLO)
    assert caught.value.budget == "tiny"
    assert caught.value.limit == usd("0.0000001")
    assert provider.wire == []
    (request,) = requests(router)
    assert request.status == "refused"
    assert "BudgetExceeded" in (request.error or "")


def test_a_downgrade_budget_takes_a_cheaper_tier_and_says_so(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        objective={"cost_weight": 0},
        budgets=[{"name": "small", "limit": "0.003", "on_exceed": "downgrade"}],
    )
    response = router.completion(messages=HELLO)
    routing = Router.decision(response)
    assert routing.decision.arm.tier in ("nano", "mini")
    assert "budget_downgrade" in routing.decision.reason
    barred = {view.arm.tier: view.rejected for view in routing.decision.arms}
    assert "more than a budget has left" in str(barred["frontier"])


def test_64_threads_cannot_overshoot_a_downgrade_budget(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=[{"name": "b", "limit": "0.02", "on_exceed": "downgrade"}])
    refused: list[BudgetExceeded] = []

    def call() -> None:
        try:
            router.completion(messages=HELLO, max_tokens=400)
        except BudgetExceeded as error:
            refused.append(error)

    threads = [threading.Thread(target=call) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (state,) = router.budgets()
    assert state.settled + state.held <= usd("0.02")
    assert state.overrun == 0
    assert len(provider.wire) + len(refused) >= 64
    assert_books_agree(router, provider)


def test_scopes_have_budgets_of_their_own_and_the_nameless_share_one(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=[{"name": "each", "limit": "0.01", "scope": "user"}], rules=[PIN_NANO]
    )
    router.completion(messages=HELLO, scopes={"user": "ann"})
    router.completion(messages=HELLO, scopes={"user": "bob"})
    router.completion(messages=HELLO)
    settled = {state.scope_value: state.settled for state in router.budgets()}
    assert settled == {"ann": NANO_BILL, "bob": NANO_BILL, "": NANO_BILL}


def test_an_unknown_price_is_refused_under_a_budget_and_unknown_without(
    make_router: MakeRouter, provider: Provider, tmp_path: Path
) -> None:
    tiers = ladder(provider.url)["tiers"]
    unpriced = {name: value for name, value in tiers["nano"][0].items() if name != "price"}
    both = {**tiers, "nano": [unpriced]}
    free = make_router(tiers=both, rules=[PIN_NANO], objective={"cost_weight": 0})
    response = free.completion(messages=HELLO)
    assert Router.decision(response).cost is None
    (row,) = rows(free)
    assert row.cost is None
    assert free.report().unknown_cost == 1
    assert free.report().total.spent == 0

    spare = {**tiers, "nano": [unpriced, tiers["nano"][0]]}
    priced = make_router(
        tiers=spare, rules=[PIN_NANO], budgets=BUDGET, store=f"sqlite:///{tmp_path / 'b.db'}"
    )
    decision = Router.decision(priced.completion(messages=HELLO)).decision
    assert decision.arm.deployment == 1
    assert decision.arms[0].rejected == "its price is unknown"


def test_an_image_never_goes_to_a_model_that_cannot_see(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    seeing = {
        **tiers["mid"][0],
        "capabilities": {**tiers["mid"][0]["capabilities"], "vision": True},
    }
    router = make_router(tiers={**tiers, "mid": [seeing]}, objective={"cost_weight": 1e6})
    look = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
            ],
        }
    ]
    assert Router.decision(router.completion(messages=look)).decision.arm.tier == "mid"
    blind = make_router(objective={"cost_weight": 1e6})
    with pytest.raises(NoCapableDeployment, match="cannot read images"):
        blind.completion(messages=look)
    assert provider.models == ["t-mid"]


def test_tools_go_only_to_models_that_call_them_and_come_back_unchanged(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    deaf = {
        **tiers["nano"][0],
        "capabilities": {**tiers["nano"][0]["capabilities"], "tools": False},
    }
    router = make_router(tiers={**tiers, "nano": [deaf]}, objective={"cost_weight": 1e6})
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
    called = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    provider.script("t-mini", ok(tool_calls=called))
    response = router.completion(messages=HELLO, tools=[tool], tool_choice="auto")
    assert provider.models == ["t-mini"]
    assert provider.wire[0][2]["tools"] == [tool]
    assert response.choices[0].message.tool_calls[0].function.name == "add"


def test_a_prompt_goes_only_into_a_window_that_holds_it(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    small = {
        **tiers["nano"][0],
        "capabilities": {**tiers["nano"][0]["capabilities"], "context_window": 1000},
    }
    router = make_router(tiers={**tiers, "nano": [small]}, objective={"cost_weight": 1e6})
    long = [{"role": "user", "content": "All the words of a long report. " * 400}]
    assert Router.decision(router.completion(messages=long)).decision.arm.tier == "mini"
    assert Router.decision(router.completion(messages=HELLO)).decision.arm.tier == "nano"


def test_a_cancelled_call_is_charged_as_reserved_and_leaves_nothing_held(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    provider.script("t-nano", Behaviour(delay=2))

    async def cancel() -> None:
        await asyncio.to_thread(__import__, "litellm")
        task = asyncio.create_task(router.acompletion(messages=HELLO))
        while not provider.wire:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    (row,) = rows(router)
    assert (row.status, row.cost) == ("abandoned", row.reserved)
    assert requests(router)[0].status == "abandoned"
    assert_books_agree(router, provider)


def cancel_at_once(router: Router) -> None:
    """Begin a call, and cancel it before it is sent."""

    async def cancel() -> None:
        task = asyncio.create_task(router.acompletion(messages=HELLO))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())


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


def test_200_concurrent_tasks_hold_a_hard_budget(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=[{"name": "b", "limit": "0.01"}], rules=[PIN_NANO])

    async def call() -> bool:
        try:
            await router.acompletion(messages=HELLO, max_tokens=300)
        except BudgetExceeded:
            return False
        return True

    async def many() -> list[bool]:
        return await asyncio.gather(*(call() for _ in range(200)))

    answered = asyncio.run(many())
    (state,) = router.budgets()
    assert 0 < sum(answered) == len(provider.wire)
    assert state.settled + state.held <= usd("0.01")
    assert_books_agree(router, provider)


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


def test_a_store_that_cannot_be_written_refuses_and_sends_nothing(
    make_router: MakeRouter, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SqliteStore.__init__.__kwdefaults__, "busy_seconds", 0.5)  # not ten
    store = tmp_path / "router.db"
    make_router(store=f"sqlite:///{store}").completion(messages=HELLO)
    sent = len(provider.wire)
    database = sqlite3.connect(store)
    database.execute("BEGIN IMMEDIATE")  # as good as read-only, also where the tests run as root
    router = make_router(store=f"sqlite:///{store}")
    with pytest.raises(LedgerUnavailable, match=r"router\.db"):
        router.completion(messages=HELLO)
    database.rollback()
    database.close()
    assert len(provider.wire) == sent


def test_a_missing_folder_for_the_store_is_named_and_nothing_is_sent(
    make_router: MakeRouter, provider: Provider, tmp_path: Path
) -> None:
    router = make_router(store=f"sqlite:///{tmp_path / 'closed' / 'router.db'}")
    with pytest.raises(ConfigurationError, match="closed"):
        router.completion(messages=HELLO)
    assert provider.wire == []


def test_a_corrupt_store_is_refused_and_nothing_is_sent(
    make_router: MakeRouter, provider: Provider, tmp_path: Path
) -> None:
    store = tmp_path / "router.db"
    store.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(LedgerCorrupt, match=r"router\.db"):
        make_router(store=f"sqlite:///{store}").completion(messages=HELLO)
    assert provider.wire == []


def test_a_missing_key_is_named_and_nothing_is_sent(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NANO_KEY", raising=False)
    tiers = ladder(provider.url)["tiers"]
    keyed = {**tiers, "nano": [{**tiers["nano"][0], "api_key_env": "NANO_KEY"}]}
    router = make_router(tiers=keyed, rules=[PIN_NANO], budgets=BUDGET)
    with pytest.raises(AuthenticationFailed, match="NANO_KEY"):
        router.completion(messages=HELLO)
    assert provider.wire == []
    assert router.budgets()[0].settled == 0
    monkeypatch.setenv("NANO_KEY", "sk-test-123")
    router.completion(messages=HELLO)
    assert provider.wire[0][1]["authorization"] == "Bearer sk-test-123"


def test_an_endpoint_of_ones_own_never_sees_the_providers_key(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0000")
    router = make_router(rules=[PIN_NANO])
    router.completion(messages=HELLO)
    assert "sk-canary-0000" not in str(provider.wire)


def test_a_key_never_stands_in_an_error_or_the_store(
    make_router: MakeRouter,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("NANO_KEY", "sk-canary-1111")
    tiers = ladder(provider.url)["tiers"]
    keyed = {**tiers, "nano": [{**tiers["nano"][0], "api_key_env": "NANO_KEY"}]}
    router = make_router(tiers=keyed, rules=[PIN_NANO], retry={"attempts": 1})
    provider.script("t-nano", status(401))
    with pytest.raises(AuthenticationFailed) as caught:
        router.completion(messages=HELLO)
    assert "sk-canary-1111" not in str(caught.value)
    router.close()
    for file in tmp_path.glob("router.db*"):
        assert b"sk-canary-1111" not in file.read_bytes()


def test_max_cost_per_request_is_never_passed(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(objective={"max_cost_per_request": "0.002"})
    response = router.completion(messages=HELLO, max_tokens=100)
    view = Router.decision(response).decision.view
    assert view.quote.upper is not None
    assert view.quote.upper <= usd("0.002")
    with pytest.raises(BudgetExceeded) as caught:
        make_router(objective={"max_cost_per_request": "0.0000001"}).completion(messages=HELLO)
    assert caught.value.budget == "max_cost_per_request"


def test_n_answers_are_reserved_n_times(make_router: MakeRouter, provider: Provider) -> None:
    router = make_router(rules=[PIN_NANO])
    one = Router.decision(router.completion(messages=HELLO)).decision.view.quote
    five = Router.decision(router.completion(messages=HELLO, n=5)).decision.view.quote
    assert five.upper is not None
    assert one.upper is not None
    assert five.upper - one.upper == 4 * 500 * 1250


def test_an_unbounded_server_tool_is_refused_under_a_budget(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET)
    with pytest.raises(InvalidRequest, match="web_search_options"):
        router.completion(messages=HELLO, web_search_options={})
    assert provider.wire == []


def test_unpriced_tiers_are_named_when_nothing_else_is_left(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    with pytest.raises(UnknownPrice, match="t-nano"):
        router.completion(messages=HELLO, service_tier="priority")
    assert provider.wire == []
