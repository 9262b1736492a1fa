"""Faults F13 to F15 of the ledger's specification, over real HTTP: what a wire call is charged."""

from __future__ import annotations

import asyncio

import pytest

from router import Router
from router.errors import InvalidRequest
from tests.conftest import HELLO, PRICES, MakeRouter, only
from tests.pipeline_kit import BUDGET, NANO_BILL, PIN_NANO, assert_books_agree, requests, rows
from tests.provider import USAGE, Behaviour, Provider, ok, status


def bill(tier: str) -> int:
    """Nano-USD of `provider.USAGE` at a tier's prices: 16 tokens fresh, 4 cached, 10 out."""
    price = {name: round(float(text) * 1000) for name, text in PRICES[tier].items()}
    fresh = USAGE["prompt_tokens"] - 4
    return fresh * price["input"] + 4 * price["cache_read"] + 10 * price["output"]


def test_f13_each_of_three_attempts_is_a_row_of_its_own_and_two_lost_answers_are_paid(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    provider.script("t-nano", Behaviour(cut=True), Behaviour(cut=True), ok())
    response = router.completion(messages=HELLO)
    logged = rows(router)
    assert len(provider.wire) == len(logged) == Router.decision(response).attempts == 3
    assert [row.number for row in logged] == [1, 2, 3]
    assert [row.cost_source for row in logged] == ["assumed", "assumed", "computed"]
    assert [row.cost for row in logged] == [logged[0].reserved, logged[1].reserved, NANO_BILL]
    assert router.report().wasted == 2 * logged[0].reserved
    assert_books_agree(router, provider)


def test_f14_each_attempt_of_a_fallback_is_charged_at_its_own_tier_s_price(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=BUDGET,
        rules=[only("nano")],
        objective={"cost_weight": 1e6},
        retry={"attempts": 1},
    )
    provider.script("t-nano", status(503))
    provider.script("t-mini", Behaviour(cut=True))
    response = router.completion(messages=HELLO)
    logged = rows(router)
    assert [row.tier for row in logged] == ["nano", "mini", "mid"]
    assert [row.model for row in logged] == [f"openai/{model}" for model in provider.models]
    assert [row.cost for row in logged] == [0, logged[1].reserved, bill("mid")]
    reserved = [row.reserved for row in logged]
    assert reserved == sorted(set(reserved))  # each tier's own bound
    upper = {view["tier"]: view["upper"] for view in requests(router)[0].decision}
    assert reserved == [upper["nano"], upper["mini"], upper["mid"]]
    assert Router.decision(response).cost == bill("mid")
    assert_books_agree(router, provider)


def test_f15_a_cache_of_litellm_s_never_stands_in_for_a_call_that_is_charged(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    import litellm

    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    monkeypatch.setattr(litellm, "cache", litellm.Cache(type="local"))
    for _ in range(2):
        assert Router.decision(router.completion(messages=HELLO)).cost == NANO_BILL
    for chunk in router.completion(messages=HELLO, stream=True):
        assert chunk

    async def call() -> int | None:
        return Router.decision(await router.acompletion(messages=HELLO)).cost

    assert [asyncio.run(call()) for _ in range(2)] == [NANO_BILL] * 2
    assert len(provider.wire) == 5
    assert not any("caching" in body for _, _, body in provider.wire)
    assert router.report().total.baseline == 5 * (requests(router)[0].baseline or 0) > 0
    assert_books_agree(router, provider)
    with pytest.raises(InvalidRequest, match="caching"):
        router.completion(messages=HELLO, caching=True)
