"""Streams: the same chunks as litellm's, and one settlement however they end."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from typing import Any

import pytest

from router import Router
from router.dispatch.wire import load_litellm
from router.errors import MalformedReply, RateLimited
from tests import warm
from tests.conftest import HELLO, MakeRouter, only
from tests.pipeline_kit import (
    BUDGET,
    NANO_BILL,
    PIN_NANO,
    assert_books_agree,
    cancel_once_sent,
    requests,
    rows,
    wait_until_settled,
)
from tests.provider import USAGE, Behaviour, Provider, ok, status
from tests.usage_wire import wire

PRICE = {"input": "1", "output": "1"}


@pytest.fixture(scope="module", autouse=True)
def _sent_before() -> None:
    """What litellm imports with its first call is imported before any clock runs."""
    server = Provider()
    load_litellm().completion("openai/m", HELLO, api_base=server.url, api_key="none")
    server.close()


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


def test_no_tokenizer_is_fetched_from_the_network_for_a_stream(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_litellm()
    fetched: list[object] = []
    monkeypatch.setattr("litellm.utils._load_huggingface_tokenizer", lambda *a: fetched.append(a))
    own = {"model": "hosted_vllm/llama-3-8b", "api_base": provider.url, "price": PRICE}
    router = make_router(tiers={"frontier": [own]}, budgets=[])
    assert list(router.completion(messages=HELLO, stream=True))
    assert fetched == []


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


@pytest.mark.parametrize("model", ["groq/m", "hosted_vllm/m", "deepseek/m"])
def test_a_forgotten_stream_is_drained_whoever_reads_it_for_litellm(
    make_router: MakeRouter, provider: Provider, model: str
) -> None:
    own = {"model": model, "api_base": provider.url, "price": PRICE}
    router = make_router(tiers={"frontier": [own]}, budgets=BUDGET)
    for _ in router.completion(messages=HELLO, stream=True):
        break
    gc.collect()
    wait_until_settled(router)
    (row,) = rows(router)
    assert (row.status, row.cost, row.cost_source) == ("abandoned", 30_000, "computed")


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


FORKS = """
import os, sys
from router import Router
from tests.conftest import HELLO, ladder, steady_predictor
from tests.pipeline_kit import BUDGET
url, store = sys.argv[1:]
router = Router(ladder(url, budgets=BUDGET), store=store, predictor=steady_predictor())
stream = router.completion(messages=HELLO, stream=True)
next(stream)
child = os.fork()
if child == 0:
    del stream
    import time
    time.sleep(0.5)
    os._exit(0)
os.waitpid(child, 0)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream), end="")
"""


def test_a_stream_that_a_forked_child_drops_is_its_parents_to_read_and_to_settle(
    router: Router, provider: Provider
) -> None:
    provider.default = ok(chunk_delay=0.1, chunks=4)
    _, said, error = warm.start(FORKS, provider.url, router.store).communicate()
    assert (said, error) == ("part 1 part 2 part 3 ", "")
    assert [row.status for row in rows(router)] == ["answered"]
    assert_books_agree(router, provider)


# ── counts so far, which some providers send with the first chunk or with each ──────────────────
OPENAI = [{"prompt_tokens": 20, "completion_tokens": n, "total_tokens": 20 + n} for n in (1, 900)]
ANTHROPIC = [{"input_tokens": 20, "output_tokens": n} for n in (1, 900)]
GEMINI = [
    {"promptTokenCount": 20, "candidatesTokenCount": n, "totalTokenCount": 20 + n} for n in (1, 900)
]
COUNTING = {
    "anthropic": ("anthropic/m", "", ANTHROPIC),
    "gemini": ("gemini/m", "", GEMINI),
    "openai_cumulative": ("openai/m", "/v1", OPENAI),
}


@pytest.fixture
def counting(make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A router of one model whose provider counts as it goes, in one form or another."""
    monkeypatch.setenv("COUNTING_KEY", "k")

    def make(form: str, **changes: Any) -> Router:
        model, path, usage = COUNTING[form]
        provider.default = wire(form, usage, stream=True)
        deployment = {
            "model": model,
            "api_base": provider.url.removesuffix("/v1") + path,
            "api_key_env": "COUNTING_KEY",
            "price": {"input": "1", "output": "1"},
            "capabilities": {"context_window": 100_000},
        }
        tiers = {"nano": [deployment]}
        once = {"attempts": 1}
        return make_router(tiers=tiers, baseline="nano", budgets=BUDGET, retry=once, **changes)

    return make


@pytest.mark.parametrize(("form", "end"), [("anthropic", b"event: message_delta"),
                                           ("openai_cumulative", b"data: [DONE]")])  # fmt: skip
def test_counts_so_far_do_not_make_a_truncated_stream_an_answer(
    counting: Any, provider: Provider, form: str, end: bytes
) -> None:
    router, whole = counting(form), provider.default.body
    assert whole is not None
    cut = whole.partition(end)[0]
    if form == "openai_cumulative":  # its finish reason comes before
        cut = cut[: cut.rstrip().rindex(b"data: ")]
    provider.default = replace(provider.default, body=cut)
    with pytest.raises(MalformedReply, match="broke off"):
        list(router.completion(messages=HELLO, stream=True))
    (row,) = rows(router)
    assert (row.status, row.cost) == ("failed", row.reserved)
    assert_books_agree(router, provider)


@pytest.mark.parametrize("garbled", [b'data: {"candidates": [{"con', b"data: {not json}\r\n\r\n"])
def test_a_stream_with_an_event_that_nobody_can_read_is_no_answer(
    counting: Any, provider: Provider, garbled: bytes
) -> None:
    router, whole = counting("gemini"), provider.default.body
    assert whole is not None
    first, middle, rest = whole.partition(b"\n\n")
    follows = rest if garbled.endswith(b"\n") else b""  # else the connection ends with it
    provider.default = replace(provider.default, body=first + middle + garbled + follows)
    with pytest.raises(MalformedReply, match="broke off"):
        list(router.completion(messages=HELLO, stream=True))
    (row,) = rows(router)
    assert (row.status, row.cost) == ("failed", row.reserved)
    assert_books_agree(router, provider)


def left_after_a_chunk(router: Router, provider: Provider) -> Any:
    """The row of a stream of which one chunk was read."""
    stream = router.completion(messages=HELLO, stream=True)
    next(stream)
    stream.close()
    wait_until_settled(router)
    (row,) = rows(router)
    assert_books_agree(router, provider)
    return row


@pytest.mark.parametrize("form", COUNTING)
def test_counts_so_far_are_no_bill_of_a_stream_that_is_hung_up_on(
    counting: Any, provider: Provider, form: str
) -> None:
    row = left_after_a_chunk(counting(form, streams={"on_abandon": "abort"}), provider)
    assert (row.status, row.cost) == ("abandoned", row.reserved)


@pytest.mark.parametrize("form", COUNTING)
def test_counts_so_far_are_no_bill_of_a_stream_that_was_cancelled(
    counting: Any, provider: Provider, form: str
) -> None:
    router = counting(form)
    provider.default = replace(provider.default, chunk_delay=0.3)

    async def read() -> None:
        async for _ in await router.acompletion(messages=HELLO, stream=True):
            read_some.set()

    async def cancel() -> None:
        task = asyncio.create_task(read())
        await read_some.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not rows(router):
            await asyncio.sleep(0.01)

    read_some = asyncio.Event()
    asyncio.run(cancel())
    (row,) = rows(router)
    assert (row.status, row.cost) == ("abandoned", row.reserved)
    assert_books_agree(router, provider)


@pytest.mark.parametrize("form", COUNTING)
def test_a_stream_that_counts_as_it_goes_is_billed_by_its_last_count(
    counting: Any, provider: Provider, form: str
) -> None:
    row = left_after_a_chunk(counting(form), provider)
    assert (row.status, row.cost, row.cost_source) == ("abandoned", 920_000, "computed")


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
