"""How long a call may take: the total timeout holds whatever its provider sends meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest

from router.dispatch.bounded_reads import until
from router.dispatch.wire import load_litellm
from router.errors import ProviderTimeout
from tests.conftest import HELLO, MakeRouter
from tests.pipeline_kit import BUDGET, PIN_NANO, assert_books_agree, rows, wait_until_settled
from tests.provider import Behaviour, Provider, ok


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


ALIVE = b": keep-alive\n\n" * 40
CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'  # noqa: E501


@pytest.mark.parametrize("door", ["sync", "async"])
@pytest.mark.parametrize(
    "body", [b"\n" * 40 + b"{}", ALIVE, CHUNK + ALIVE], ids=["whole", "first chunk", "next chunk"]
)
def test_the_total_timeout_ends_a_call_that_its_provider_only_keeps_alive(
    make_router: MakeRouter, provider: Provider, body: bytes, door: str
) -> None:
    times = {"connect": 1, "read": 1, "total": 1}
    router = make_router(
        budgets=BUDGET, rules=[PIN_NANO], timeout=times, retry={"attempts": 1, "fallback": False}
    )
    streams = b"alive" in body
    router.completion(messages=HELLO)  # litellm is loaded before the clock runs
    form = "text/event-stream" if streams else "application/json"
    provider.default = Behaviour(body=body, chunk_delay=0.2, content_type=form)

    async def awaited() -> None:
        answer = await router.acompletion(messages=HELLO, stream=streams)
        async for _ in answer:
            pass

    call = {
        "async": lambda: asyncio.run(awaited()),
        "sync": lambda: list(router.completion(messages=HELLO, stream=streams)),
    }
    started = time.monotonic()
    with pytest.raises(ProviderTimeout, match="total timeout"):
        call[door]()
    assert time.monotonic() - started < 4
    wait_until_settled(router, 2)
    assert rows(router)[-1].cost == rows(router)[-1].reserved
    assert_books_agree(router, provider)


def test_a_drain_ends_in_time_though_the_provider_keeps_the_stream_alive(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=BUDGET, rules=[PIN_NANO], streams={"drain_seconds": 1})
    body = CHUNK + ALIVE
    provider.default = Behaviour(body=body, chunk_delay=0.2, content_type="text/event-stream")
    stream = router.completion(messages=HELLO, stream=True)
    next(iter(stream))
    stream.close()
    started = time.monotonic()
    wait_until_settled(router)
    assert time.monotonic() - started < 4
    assert rows(router)[-1].cost == rows(router)[-1].reserved
    assert_books_agree(router, provider)


def test_other_clients_of_the_process_know_no_deadline_of_ours(provider: Provider) -> None:
    load_litellm()
    provider.default = Behaviour(body=b"\n" * 4 + b"{}", chunk_delay=0.2)
    with httpx.Client() as client, until(time.monotonic() - 1):
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{provider.url}/chat/completions", json={"model": "m"})
        found: list[int] = []
        theirs = threading.Thread(
            target=lambda: found.append(
                client.post(f"{provider.url}/chat/completions", json={"model": "m"}).status_code
            )
        )
        theirs.start()
        theirs.join()
    assert found == [200]
