"""Routers with leases, and routers whose store or process goes away, over real HTTP."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import BudgetExceeded, LedgerUnavailable, PolicyError
from router.ledger import open_ledger
from router.policy import load_policy
from tests import warm
from tests.conftest import HELLO, MakeRouter, ladder
from tests.outage_kit import store_of
from tests.pipeline_kit import (
    BUDGET,
    NANO_BILL,
    PIN_NANO,
    assert_books_agree,
    requests,
    rows,
)
from tests.provider import Provider, ok, status

LEASE = {"ledger": {"lease": True}}


def away(router: Router, monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Let these steps of the router's store fail from now on."""

    def fail(*arguments: Any) -> Any:
        raise LedgerUnavailable("the store", "it is away")

    for step in steps:
        monkeypatch.setattr(store_of(router.ledger), step, fail)


ALL_STEPS = ("hold", "end", "draw", "read", "expire", "refuse", "finish")


def test_a_router_with_leases_asks_the_store_once_and_its_books_agree(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO], **LEASE)
    for call in range(12):
        if call % 4 == 1:  # not the first, which loads litellm
            provider.script("t-nano", status(500))
        router.completion(messages=HELLO)
    router.close()
    again = make_router(budgets=BUDGET)
    assert_books_agree(again, provider)
    assert [row.status for row in requests(again)] == ["answered"] * 12
    assert again.report().total.spent == sum(row.cost or 0 for row in rows(again))


def test_a_router_with_leases_is_refused_at_the_limit_and_no_sooner(
    make_router: MakeRouter, provider: Provider
) -> None:
    budget = [{"name": "all", "limit": "0.002", "window": "total"}]
    router = make_router(budgets=budget, rules=[PIN_NANO], **LEASE)
    error = None
    while error is None:
        try:
            router.completion(messages=HELLO)
        except BudgetExceeded as refused:
            error = refused
    assert error.used == len(rows(router)) * NANO_BILL
    assert error.held == 0
    assert error.used + error.needed > error.limit
    assert_books_agree(router, provider)


def test_f31_an_answer_is_returned_and_its_settlement_parked_and_replayed(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    router.completion(messages=HELLO)
    away(router, monkeypatch, "end")
    assert router.completion(messages=HELLO).choices[0].message.content
    assert router.budgets()[0].held > 0
    monkeypatch.undo()
    router.completion(messages=HELLO)
    assert_books_agree(router, provider)


def test_f31_deny_sends_nothing_while_the_store_is_away(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO])
    router.completion(messages=HELLO)
    away(router, monkeypatch, *ALL_STEPS)
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        router.completion(messages=HELLO)
    assert time.monotonic() - started < 0.25
    assert len(provider.wire) == 1


def test_lease_goes_on_while_the_store_is_away_and_rejoins(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], ledger={"lease": True, "on_outage": "lease"}
    )
    router.completion(messages=HELLO)
    away(router, monkeypatch, *ALL_STEPS)
    router._next_sweep = 0.0
    for _ in range(5):
        router.completion(messages=HELLO)
    monkeypatch.undo()
    router.close()
    assert_books_agree(make_router(budgets=BUDGET), provider)


def test_open_goes_on_and_the_report_counts_what_is_unaccounted(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO], ledger={"on_outage": "open"})
    router.completion(messages=HELLO)
    away(router, monkeypatch, *ALL_STEPS)
    for _ in range(3):
        router.completion(messages=HELLO)
    assert len(provider.wire) == 4
    report = router.report()
    assert (report.unaccounted, report.total.spent) == (3, NANO_BILL)
    monkeypatch.undo()
    router.close()
    after = make_router(budgets=BUDGET)
    assert_books_agree(after, provider)
    assert after.budgets()[0].overrun == 3 * NANO_BILL
    report = after.report()
    assert (report.unaccounted, report.total.spent) == (3, 4 * NANO_BILL)


def test_a_policy_that_goes_on_with_leases_it_does_not_have_is_refused() -> None:
    with pytest.raises(PolicyError, match="no leases"):
        load_policy(ladder("http://localhost/v1", ledger={"on_outage": "lease"}))


CHILD = """
    import asyncio, json, os, signal, sys
    from router import Router
    from tests.conftest import HELLO, steady_predictor

    policy, store, how = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    router = Router(policy, store=store, predictor=steady_predictor())

    async def leave_it_open():
        stream = await router.acompletion(messages=HELLO, stream=True)
        await anext(stream)

    if how == "loop":
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave_it_open())
        loop.close()
    else:
        stream = router.completion(messages=HELLO, stream=True)
        next(stream)
        print("streaming", flush=True)
        for _ in stream:
            pass
"""


@pytest.mark.parametrize("options", [{}, LEASE], ids=["direct", "lease"])
@pytest.mark.parametrize("how", ["term", "interrupt", "kill", "loop"])
def test_f55_a_process_that_ends_in_the_middle_of_a_stream_is_charged(
    provider: Provider, tmp_path: Path, how: str, options: dict[str, Any]
) -> None:
    provider.script("t-nano", ok(chunk_delay=0.1, chunks=600 if how != "loop" else 5))
    policy = ladder(
        provider.url, budgets=BUDGET, rules=[PIN_NANO], streams={"on_abandon": "abort"}, **options
    )
    store = f"sqlite:///{tmp_path / 'router.db'}"
    child = warm.start(textwrap.dedent(CHILD), json.dumps(policy), store, how)
    if how != "loop":
        assert child.stdout.readline() == "streaming\n"
        sent = {"term": signal.SIGTERM, "interrupt": signal.SIGINT, "kill": signal.SIGKILL}
        child.send_signal(sent[how])
    code = child.wait()
    if how in ("term", "kill"):
        assert code == -sent[how]
    ledger = open_ledger(store, create=False)
    ledger.expire(time.time() + 3600)
    (row,) = ledger.log().attempts()
    assert row.cost is not None
    assert row.cost >= NANO_BILL
    [state] = ledger.states(time.time())
    assert (state.settled, state.held) == (row.cost, 0)
    assert ledger.verify() == []
    # An interrupt inside the HTTP client comes out of it as a broken stream: "failed".
    statuses = [row.status for row in ledger.log().requests()]
    assert statuses in (["abandoned"], ["expired"], *([["failed"]] if how == "interrupt" else []))
    ledger.close()
