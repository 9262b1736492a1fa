"""Over real HTTP: what is refused before anything is sent, and what a request may be sent to."""

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
    UnknownPrice,
)
from router.ledger.sqlite.store import SqliteStore
from tests.conftest import HELLO, MakeRouter, ladder, usd
from tests.pipeline_kit import BUDGET, NANO_BILL, PIN_NANO, assert_books_agree, requests, rows
from tests.provider import Provider, ok, status


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
    assert "more than budget 'small' has left" in str(barred["frontier"])


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


def with_capability(provider: Provider, tier: str, **changed: bool) -> dict[str, Any]:
    """The ladder's tiers, of which one can do more or less than usual."""
    tiers: dict[str, Any] = ladder(provider.url)["tiers"]
    [one] = tiers[tier]
    return {**tiers, tier: [{**one, "capabilities": {**one["capabilities"], **changed}}]}


def test_an_image_never_goes_to_a_model_that_cannot_see(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = with_capability(provider, "mid", vision=True)
    router = make_router(tiers=tiers, objective={"cost_weight": 1e6})
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
    tiers = with_capability(provider, "nano", tools=False)
    router = make_router(tiers=tiers, objective={"cost_weight": 1e6})
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
    with pytest.raises(UnknownPrice, match=r"t-nano.*service tier 'priority'"):
        router.completion(messages=HELLO, service_tier="priority")
    assert provider.wire == []


WAVE = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}


@pytest.mark.parametrize(
    ("asked", "window", "why"),
    [
        ({"service_tier": "priority"}, 9_000, r"service tier 'priority' \(known: default, flex\)"),
        ({"messages": [{"role": "user", "content": [WAVE]}]}, 9_000, "no rate for audio input"),
        ({"messages": [{"role": "user", "content": [WAVE]}]}, None, "`context_window`.*not known"),
    ],
)
def test_what_a_price_lacks_for_a_request_is_said(
    make_router: MakeRouter, provider: Provider, asked: Any, window: int | None, why: str
) -> None:
    price = {"input": "1", "output": "2", "multipliers": {"flex": "0.5"}}
    able = {"audio": True} | ({"context_window": window} if window else {})
    hearing = {"model": "openai/m", "price": price, "capabilities": able}
    router = make_router(tiers={"frontier": [hearing]}, budgets=BUDGET)
    with pytest.raises(UnknownPrice, match=f"openai/m.*{why}"):
        router.completion(**{"messages": HELLO, **asked})
    assert provider.wire == []
