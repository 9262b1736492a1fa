"""What litellm's own handlers of HTTP do for a routed call, which no setting of litellm's does."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from router import Router
from router.errors import ProviderTimeout
from tests import warm
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import BUDGET, PIN_NANO, assert_books_agree, rows
from tests.provider import Provider, ok
from tests.usage_wire import ANSWER, wire

ONCE = {"attempts": 1, "fallback": False}
STREAMS = {
    "anthropic": ("anthropic/m", {"input_tokens": 9, "output_tokens": 3}),
    "gemini": (
        "gemini/m",
        {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12},
    ),
}


@pytest.fixture
def make(make_router: MakeRouter, provider: Provider) -> Any:
    def make_one(form: str, **changes: Any) -> Router:
        model, usage = STREAMS[form]
        provider.default = wire(form, usage, stream=True)
        tiers = ladder(provider.url)["tiers"]
        tiers["nano"][0]["model"] = model
        return make_router(tiers=tiers, budgets=BUDGET, rules=[PIN_NANO], retry=ONCE, **changes)

    return make_one


@pytest.mark.parametrize("form", STREAMS)
def test_streams_of_several_event_loops_do_not_hang_up_on_each_other(
    make: Any, provider: Provider, form: str
) -> None:
    router = make(form)
    list(router.completion(messages=HELLO, stream=True))  # litellm is loaded
    provider.default = replace(provider.default, chunk_delay=0.05)
    together, texts = threading.Barrier(4), list[str]()

    async def read() -> str:
        stream = await router.acompletion(messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    def on_a_loop() -> None:
        for _ in range(4):
            together.wait(10)
            texts.append(asyncio.run(read()))

    threads = [threading.Thread(target=on_a_loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [ANSWER] * 16
    assert {row.status for row in rows(router)} == {"answered"}
    assert_books_agree(router, provider)


def _on_a_loop(router: Router) -> Any:
    return lambda **asked: asyncio.run(router.acompletion(**asked))


@pytest.mark.parametrize("door", ["sync", "async"])
@pytest.mark.parametrize("form", STREAMS)
def test_a_silent_provider_is_waited_for_as_long_as_the_policy_says(
    make: Any, provider: Provider, form: str, door: str
) -> None:
    router = make(form, timeout={"connect": 1, "read": 0.3, "total": 10})
    list(router.completion(messages=HELLO, stream=True))  # litellm is loaded
    provider.default = replace(provider.default, delay=5)
    call = router.completion if door == "sync" else _on_a_loop(router)
    started = time.monotonic()
    with pytest.raises(ProviderTimeout):
        call(messages=HELLO, stream=True)
    assert time.monotonic() - started < 3
    assert_books_agree(router, provider)


FORKS = """
import os, sys
from openai import OpenAI
from router import Router, wrap
from tests.conftest import HELLO, ladder, steady_predictor
from tests.pipeline_kit import BUDGET, PIN_NANO
url, store, model = sys.argv[1:]
policy = ladder(url, budgets=BUDGET, rules=[PIN_NANO])
if model == "wrapped":
    del policy["tiers"]["nano"][0]["api_base"]
else:
    policy["tiers"]["nano"][0]["model"] = model
router = Router(policy, store=store, predictor=steady_predictor())
client = wrap(OpenAI(api_key="k", base_url=url), router)
call = client.chat.completions.create if model == "wrapped" else router.completion
call(model="auto", messages=HELLO)
child = os.fork()
if child == 0:
    call(model="auto", messages=HELLO)
    os._exit(0)
os.waitpid(child, 0)
call(model="auto", messages=HELLO)
"""


@pytest.mark.parametrize("model", ["openai/m", "anthropic/m", "gemini/m", "wrapped"])
def test_a_forked_child_does_not_write_to_its_parents_connections(
    make: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    form = model.partition("/")[0]
    router = make(form if form in STREAMS else "anthropic")
    provider.default = wire(form, STREAMS[form][1], stream=False) if form in STREAMS else ok()
    connections = list[Any]()
    monkeypatch.setattr(
        provider, "takes", lambda handler, raw: connections.append(handler.client_address)
    )
    _, _, error = warm.start(FORKS, provider.url, router.store, model).communicate()
    first, childs, last = connections
    assert (error, last) == ("", first)
    assert childs != first
    assert [row.status for row in rows(router)] == ["answered"] * 3
    assert_books_agree(router, provider)
