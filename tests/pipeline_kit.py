"""What tests of the whole walk share: a rule, a budget, a bill, and whether the books agree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from router import Router
from tests.conftest import HELLO
from tests.provider import Provider

NANO_BILL = 16 * 200 + 4 * 20 + 10 * 1250  # nano-USD of provider.USAGE at nano's prices
PIN_NANO = {"name": "pin", "when": {"min_input_tokens": 0}, "tier": "nano"}
BUDGET = [{"name": "all", "limit": "1.00", "window": "total"}]


def rows(router: Router) -> list[Any]:
    return list(router.ledger.log().attempts())


def requests(router: Router) -> list[Any]:
    return list(router.ledger.log().requests())


def assert_books_agree(router: Router, provider: Provider) -> None:
    """One reservation for each wire request, nothing held, every invariant of the ledger."""
    found = rows(router)
    others = [(row.status, row.error) for row in found if row.status != "answered"]
    assert len(found) == len(provider.wire), others
    assert router.ledger.verify() == []
    assert all(state.held == 0 for state in router.budgets())
    purpose = {request.request_id: request.purpose for request in requests(router)}
    for state in router.budgets():
        counts = state.budget.purpose
        spent = [
            row.cost or 0 for row in rows(router) if counts in ("any", purpose[row.request_id])
        ]
        assert state.settled == sum(spent)


def cancel_once_sent(
    provider: Provider, call: Callable[[], Coroutine[Any, Any, Any]], after: float = 0.0
) -> None:
    """Begin a call, and cancel it once it is on the wire, or so many seconds later."""

    async def cancel() -> None:
        await asyncio.to_thread(__import__, "litellm")
        task = asyncio.create_task(call())
        while not provider.wire:
            await asyncio.sleep(0.01)
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())


def cancel_at_once(router: Router) -> None:
    """Begin a call, and cancel it before it is sent."""

    async def cancel() -> None:
        task = asyncio.create_task(router.acompletion(messages=HELLO))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())


def wait_until_settled(router: Router, count: int = 1) -> None:
    """Wait for a stream that settles itself on another thread."""
    for _ in range(500):
        if len(rows(router)) >= count:
            return
        time.sleep(0.01)
    raise AssertionError("the stream was never settled")
