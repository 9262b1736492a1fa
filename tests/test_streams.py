"""Streams: the same chunks as litellm's, and one settlement however they end."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from router import Router
from router.errors import MalformedReply, ProviderTimeout, RateLimited
from tests.conftest import HELLO, MakeRouter, only
from tests.pipeline_kit import (
    BUDGET,
    NANO_BILL,
    PIN_NANO,
    assert_books_agree,
    cancel_once_sent,
    requests,
    rows,
)
from tests.provider import USAGE, Behaviour, Provider, ok, status


def wait_until_settled(router: Router, count: int = 1) -> None:
    for _ in range(500):
        if len(rows(router)) >= count:
            return
        time.sleep(0.01)
    raise AssertionError("the stream was never settled")


@pytest.fixture
def router(make_router: MakeRouter) -> Router:
    return make_router(budgets=BUDGET, rules=[PIN_NANO])


def test_a_stream_is_litellms_own_type_and_settles_the_exact_bill(
    router: Router, provider: Provider
) -> None:
    import litellm

    stream = router.completion(messages=HELLO, stream=True)
    assert isinstance(stream, litellm.CustomStreamWrapper)
    chunks = list(stream)
    assert all(isinstance(chunk, litellm.ModelResponseStream) for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "part 0 part 1 part 2 "
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert Router.decision(stream).decision.arm.tier == "nano"
    assert rows(router)[0].cost == NANO_BILL
    assert requests(router)[0].status == "answered"
    assert_books_agree(router, provider)


def test_an_async_stream_settles_the_exact_bill(router: Router, provider: Provider) -> None:
    async def read() -> str:
        stream = await router.acompletion(messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(read()) == "part 0 part 1 part 2 "
    assert rows(router)[0].cost == NANO_BILL
    assert_books_agree(router, provider)


def test_usage_is_asked_of_the_provider_but_shown_only_to_a_caller_who_asked(
    router: Router, provider: Provider
) -> None:
    plain = list(router.completion(messages=HELLO, stream=True))
    assert all(getattr(chunk, "usage", None) is None for chunk in plain)
    asked = list(
        router.completion(messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert asked[-1].usage.prompt_tokens == USAGE["prompt_tokens"]
    assert all(body["stream_options"] == {"include_usage": True} for _, _, body in provider.wire)


def test_a_stream_without_usage_is_charged_by_assumption(
    router: Router, provider: Provider
) -> None:
    provider.script("t-nano", ok(usage=None))
    list(router.completion(messages=HELLO, stream=True))
    (row,) = rows(router)
    assert row.cost_source == "assumed"
    assert 0 < row.cost <= row.reserved
    assert_books_agree(router, provider)


@pytest.mark.parametrize("leave", ["close", "break", "forget", "with"])
def test_an_abandoned_stream_is_drained_and_charged_what_it_really_cost(
    router: Router, provider: Provider, leave: str
) -> None:
    provider.script("t-nano", ok(chunk_delay=0.05, chunks=5))
    stream = router.completion(messages=HELLO, stream=True)
    next(stream)
    if leave == "close":
        stream.close()
    elif leave == "with":
        with stream:
            next(stream)
    elif leave == "break":
        for _ in stream:
            break
    del stream
    gc.collect()
    wait_until_settled(router)
    (row,) = rows(router)
    assert (row.status, row.cost, row.cost_source) == ("abandoned", NANO_BILL, "computed")
    assert requests(router)[0].status == "abandoned"
    assert_books_agree(router, provider)


def test_an_abandoned_stream_that_outlasts_the_drain_is_charged_as_reserved(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], streams={"on_abandon": "drain", "drain_seconds": 0.2}
    )
    provider.script("t-nano", ok(chunk_delay=0.15, chunks=40))
    stream = router.completion(messages=HELLO, stream=True)
    next(stream)
    stream.close()
    wait_until_settled(router)
    assert rows(router)[0].cost == rows(router)[0].reserved
    assert_books_agree(router, provider)


def test_a_policy_may_hang_up_at_once_and_pays_what_was_reserved(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO], streams={"on_abandon": "abort"})
    provider.script("t-nano", ok(chunk_delay=0.2, chunks=50))
    stream = router.completion(messages=HELLO, stream=True)
    next(stream)
    started = time.monotonic()
    stream.close()
    wait_until_settled(router)
    assert time.monotonic() - started < 2
    assert rows(router)[0].cost == rows(router)[0].reserved
    assert_books_agree(router, provider)


def test_an_async_stream_that_is_closed_early_is_drained(
    router: Router, provider: Provider
) -> None:
    provider.script("t-nano", ok(chunk_delay=0.05, chunks=4))

    async def leave() -> None:
        stream = await router.acompletion(messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.aclose()
        for _ in range(200):
            if rows(router):
                return
            await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert (rows(router)[0].status, rows(router)[0].cost) == ("abandoned", NANO_BILL)
    assert_books_agree(router, provider)


def test_an_async_stream_that_is_forgotten_is_still_settled(
    router: Router, provider: Provider
) -> None:
    async def forget() -> None:
        stream = await router.acompletion(messages=HELLO, stream=True)
        await anext(stream)

    asyncio.run(forget())
    gc.collect()
    wait_until_settled(router)
    assert rows(router)[0].status == "abandoned"
    assert_books_agree(router, provider)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_stream_that_is_forgotten_after_failures_is_still_settled(
    make_router: MakeRouter, provider: Provider, asynchronous: bool
) -> None:
    """Tracebacks of what failed before name the frames of whoever called, and so the stream."""
    router = make_router(
        budgets=BUDGET, rules=[only("nano")], objective={"cost_weight": 1e5},
        retry={"attempts": 2, "initial_wait": 0.01},
    )  # fmt: skip
    provider.script("t-nano", status(503), status(503))

    def forget() -> None:
        stream = router.completion(messages=HELLO, stream=True)
        next(stream)

    async def forget_too() -> None:
        stream = await router.acompletion(messages=HELLO, stream=True)
        await anext(stream)

    own = ValueError("what the caller is handling")
    try:
        raise own
    except ValueError:
        asyncio.run(forget_too()) if asynchronous else forget()
    assert own.__traceback__ is not None
    gc.collect()
    wait_until_settled(router, 3)
    assert [row.status for row in rows(router)] == ["failed", "failed", "abandoned"]
    assert_books_agree(router, provider)


def test_a_cancelled_async_stream_is_settled(router: Router, provider: Provider) -> None:
    provider.script("t-nano", ok(chunk_delay=0.3, chunks=30))

    async def read() -> None:
        async for _ in await router.acompletion(messages=HELLO, stream=True):
            pass

    cancel_once_sent(provider, read, after=0.5)
    gc.collect()
    wait_until_settled(router)
    assert rows(router)[0].cost == rows(router)[0].reserved
    assert_books_agree(router, provider)


def test_a_truncated_stream_is_an_error_not_an_answer_and_is_charged_as_reserved(
    router: Router, provider: Provider
) -> None:
    provider.script("t-nano", Behaviour(cut=True))
    stream = router.completion(messages=HELLO, stream=True)
    with pytest.raises(MalformedReply, match="broke off"):
        list(stream)
    (row,) = rows(router)
    assert (row.status, row.cost) == ("failed", row.reserved)
    assert requests(router)[0].status == "failed"
    assert_books_agree(router, provider)


def test_a_stream_that_is_refused_before_its_first_chunk_is_retried(
    router: Router, provider: Provider
) -> None:
    provider.script("t-nano", status(429, retry_after=0), ok())
    text = [
        chunk.choices[0].delta.content for chunk in router.completion(messages=HELLO, stream=True)
    ]
    assert "part 0 " in text
    assert [row.cost for row in rows(router)] == [0, NANO_BILL]
    assert_books_agree(router, provider)


def test_a_stream_that_is_refused_for_good_raises_from_the_call_itself(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], retry={"attempts": 1})
    provider.script("t-nano", status(429))
    with pytest.raises(RateLimited):
        router.completion(messages=HELLO, stream=True)


def test_the_total_timeout_ends_a_dripping_stream(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], timeout={"connect": 1, "read": 1, "total": 1}
    )
    router.completion(messages=HELLO)  # litellm is loaded before the clock runs
    provider.script("t-nano", ok(chunk_delay=0.2, chunks=200))
    started = time.monotonic()
    with pytest.raises(ProviderTimeout, match="total timeout"):
        list(router.completion(messages=HELLO, stream=True))
    assert time.monotonic() - started < 5
    assert rows(router)[-1].cost == rows(router)[-1].reserved
    assert_books_agree(router, provider)
