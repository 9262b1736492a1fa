"""`wrap(OpenAI())`: the same client, the same types back, and only "auto" is routed."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from router import Router, wrap
from router.errors import ConfigurationError, InvalidRequest, ProviderTimeout
from router.gates.answer import answers_of
from router.gates.structural import faults
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import NANO_BILL, PIN_NANO, rows
from tests.provider import USAGE, Provider, ok, status
from tests.usage_wire import wire

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
def client(provider: Provider) -> OpenAI:
    return OpenAI(api_key="sk-of-the-client", base_url=provider.url)


@pytest.fixture
def router(make_router: MakeRouter, provider: Provider) -> Router:
    """A policy whose deployments name no address: the client's own is used."""
    tiers = {
        tier: [{name: value for name, value in each.items() if name != "api_base"} for each in some]
        for tier, some in ladder(provider.url)["tiers"].items()
    }
    retry = {"attempts": 2, "initial_wait": 0.01, "fallback": False}
    return make_router(tiers=tiers, rules=[PIN_NANO], retry=retry)


def test_auto_is_routed_and_gives_openais_type_back(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    wrapped = wrap(client, router)
    assert isinstance(wrapped, OpenAI)
    reply = wrapped.chat.completions.create(model="auto", messages=HELLO)
    assert isinstance(reply, ChatCompletion)
    assert reply.choices[0].message.content == "a fine answer"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 20
    assert Router.decision(reply).cost == NANO_BILL
    assert "routing" not in reply.model_dump_json()
    assert provider.models == ["t-nano"]


def test_the_clients_own_key_and_address_serve_openai_deployments(
    client: OpenAI, router: Router, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    wrap(client, router).chat.completions.create(model="auto", messages=HELLO)
    assert provider.wire[0][1]["authorization"] == "Bearer sk-of-the-client"


def test_what_goes_to_the_responses_api_has_the_clients_key_address_and_headers(
    provider: Provider, make_router: MakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    price = {"input": "1", "output": "1"}
    thinking = {"model": "openai/gpt-5.4", "effort": "low", "price": price}
    router = make_router(tiers={"frontier": [thinking]}, budgets=[])
    asked = {"model": "auto", "messages": HELLO, "tools": [TOOL]}
    own = {
        "api_key": "sk-of-the-client", "base_url": f"{provider.url}/", "organization": "org-1",
        "default_headers": {"x-mine": "1"},
    }  # fmt: skip
    usage = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    provider.default = wire("responses", usage, stream=False)
    wrap(OpenAI(**own), router).chat.completions.create(**asked)
    asyncio.run(wrap(AsyncOpenAI(**own), router).chat.completions.create(**asked))
    assert [path for path, _, _ in provider.wire] == ["/v1/responses"] * 2
    for _, headers, _ in provider.wire:
        sent = {name.lower(): value for name, value in headers.items()}
        assert sent["authorization"] == "Bearer sk-of-the-client"
        assert (sent["openai-organization"], sent["x-mine"]) == ("org-1", "1")


def test_any_other_model_and_method_passes_through_unlogged(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    wrapped = wrap(client, router)
    reply = wrapped.chat.completions.create(model="gpt-x", messages=HELLO)
    assert isinstance(reply, ChatCompletion)
    assert [model.id for model in wrapped.models.list()] == ["t-nano"]
    assert provider.models == ["gpt-x"]
    assert rows(router) == []


def test_a_stream_gives_openais_stream_and_chunks_back(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    stream = wrap(client, router).chat.completions.create(model="auto", messages=HELLO, stream=True)
    assert isinstance(stream, Stream)
    assert Router.decision(stream).decision.arm.tier == "nano"
    with stream:
        chunks = list(stream)
    assert all(isinstance(chunk, ChatCompletionChunk) for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == (
        "part 0 part 1 part 2 "
    )
    assert rows(router)[0].cost == NANO_BILL


def test_a_stream_that_is_left_holds_nothing_until_a_garbage_collection(
    client: OpenAI, router: Router
) -> None:
    wrapped = wrap(client, router)

    def first() -> Any:
        for chunk in wrapped.chat.completions.create(model="auto", messages=HELLO, stream=True):
            return chunk.choices[0].delta.content

    gc.disable()
    try:
        assert first() == "part 0 "
        until = time.monotonic() + 10
        while not rows(router) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        gc.enable()
    assert [row.cost for row in rows(router)] == [NANO_BILL]


def test_an_async_client_is_wrapped_the_same_way(router: Router, provider: Provider) -> None:
    async def talk() -> tuple[Any, str]:
        client = wrap(AsyncOpenAI(api_key="k", base_url=provider.url), router)
        assert isinstance(client, AsyncOpenAI)
        reply = await client.chat.completions.create(model="auto", messages=HELLO)
        stream = await client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        assert isinstance(stream, AsyncStream)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return reply, text

    reply, text = asyncio.run(talk())
    assert isinstance(reply, ChatCompletion)
    assert text == "part 0 part 1 part 2 "
    assert [row.cost for row in rows(router)] == [NANO_BILL, NANO_BILL]


def test_an_async_client_serves_one_event_loop_after_another(
    router: Router, provider: Provider
) -> None:
    client = wrap(AsyncOpenAI(api_key="k", base_url=provider.url), router)
    for given in (client, client, client.with_options(timeout=5), client):
        reply = asyncio.run(given.chat.completions.create(model="auto", messages=HELLO))
        assert reply.choices[0].message.content == "a fine answer"
    assert [row.cost for row in rows(router)] == [NANO_BILL] * 4
    assert len(provider.wire) == 4


def test_a_transport_of_the_programs_own_is_used_in_every_event_loop(
    router: Router, provider: Provider
) -> None:
    own = httpx.AsyncClient(headers={"x-mine": "1", "connection": "close"})
    client = wrap(AsyncOpenAI(api_key="k", base_url=provider.url, http_client=own), router)
    for _ in range(2):
        asyncio.run(client.chat.completions.create(model="auto", messages=HELLO))
    assert [headers["x-mine"] for _, headers, _ in provider.wire] == ["1", "1"]


class Colour(BaseModel):
    name: str
    hex: str


def test_parse_gives_the_parsed_model_back(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    provider.script("t-nano", ok(text='{"name": "red", "hex": "#ff0000"}'))
    reply = wrap(client, router).chat.completions.parse(
        model="auto", messages=HELLO, response_format=Colour
    )
    assert reply.choices[0].message.parsed == Colour(name="red", hex="#ff0000")
    sent = provider.wire[0][2]["response_format"]
    assert sent["json_schema"]["name"] == "Colour"


@pytest.mark.parametrize("more", [{}, {"response_format": None, "tools": None}])
def test_an_answer_that_parse_was_told_no_format_for_is_given_back(
    client: OpenAI, router: Router, more: dict[str, Any]
) -> None:
    reply = wrap(client, router).chat.completions.parse(model="auto", messages=HELLO, **more)
    assert reply.choices[0].message.content == "a fine answer"


def test_chat_calls_under_their_beta_names_are_routed_too(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    red = ok(text='{"name": "red", "hex": "#ff0000"}')
    provider.script("t-nano", red, ok(), red)
    wrapped = wrap(client, router)
    asked: Any = {"model": "auto", "messages": HELLO}
    reply = wrapped.beta.chat.completions.parse(**asked, response_format=Colour)
    assert reply.choices[0].message.parsed == Colour(name="red", hex="#ff0000")
    with wrapped.beta.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices
    twin = wrap(AsyncOpenAI(api_key="k", base_url=provider.url), router)
    asyncio.run(twin.beta.chat.completions.parse(**asked, response_format=Colour))
    assert provider.models == ["t-nano"] * 3
    assert len(rows(router)) == 3


def test_what_a_program_puts_in_the_place_of_a_method_stays_there(
    client: OpenAI, router: Router, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = wrap(client, router)
    monkeypatch.setattr(wrapped.chat.completions, "create", lambda **arguments: "instead")
    assert wrapped.chat.completions.create(model="auto", messages=HELLO) == "instead"
    assert provider.wire == []


def test_a_refusal_is_given_back_as_openai_gives_it(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    message = {"role": "assistant", "content": None, "refusal": "I will not."}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "t-nano"}
    provider.default = ok(body=json.dumps({**body, "choices": choices, "usage": USAGE}).encode())
    wrapped = wrap(client, router)
    reply = wrapped.chat.completions.create(model="auto", messages=HELLO)
    assert reply.choices[0].message.refusal == "I will not."
    parsed = wrapped.chat.completions.parse(model="auto", messages=HELLO, response_format=Colour)
    assert parsed.choices[0].message.refusal == "I will not."
    assert faults({}, answers_of(reply)[0]) == ("refusal",)


def _refusing(*deltas: dict[str, Any]) -> Any:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "t-nano"}
    ends = [(delta, None) for delta in deltas] + [({}, "stop")]
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
        for delta, end in ends
    ]
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return ok(body=f"{lines}data: [DONE]\n\n".encode(), content_type="text/event-stream")


def test_a_streamed_refusal_is_given_back_whole(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    begun = {"role": "assistant", "content": "", "refusal": None}
    provider.default = _refusing(begun, {"refusal": "I will"}, {"refusal": " not."})
    with wrap(client, router).chat.completions.stream(
        model="auto", messages=HELLO, response_format=Colour
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.refusal == "I will not."
    assert not final.choices[0].message.content

    async def read() -> str:
        twin = wrap(AsyncOpenAI(api_key="k", base_url=provider.url), router)
        chunks = await twin.chat.completions.create(model="auto", messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.refusal or "" async for chunk in chunks])

    assert asyncio.run(read()) == "I will not."
    prompt_bound, output = 200, 1250  # nano-USD a token; no usage came
    assert all((row.cost - len("I will not.") * output) % prompt_bound == 0 for row in rows(router))


def test_the_stream_helper_works(client: OpenAI, router: Router) -> None:
    with wrap(client, router).chat.completions.stream(model="auto", messages=HELLO) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "part 0 part 1 part 2 "


def test_options_keep_the_routing(client: OpenAI, router: Router, provider: Provider) -> None:
    wrapped = wrap(client, router).with_options(timeout=5)
    wrapped.chat.completions.create(model="auto", messages=HELLO)
    assert provider.models == ["t-nano"]


@pytest.mark.parametrize("given", ["client", "options", "call", "number"])
def test_a_timeout_holds_wherever_openais_client_takes_one(
    client: OpenAI, router: Router, provider: Provider, given: str
) -> None:
    wrapped = wrap(client, router)
    wrapped.chat.completions.create(model="auto", messages=HELLO)  # litellm is loaded
    if given == "client":
        own = OpenAI(api_key="k", base_url=provider.url, timeout=0.2)
        wrapped = wrap(own, router)
    elif given == "options":
        wrapped = wrapped.with_options(timeout=0.2)
    asked = {"call": {"timeout": httpx.Timeout(0.2)}, "number": {"timeout": 0.2}}.get(given, {})
    provider.default = ok(delay=1)
    with pytest.raises(ProviderTimeout):
        wrapped.chat.completions.create(model="auto", messages=HELLO, **asked)


def test_retries_of_the_client_are_off_for_routed_calls(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    provider.script("t-nano", status(503), ok())
    wrap(client, router).chat.completions.create(model="auto", messages=HELLO)
    assert len(rows(router)) == len(provider.wire) == 2


def test_scopes_and_tags_of_the_wrapping_go_with_every_call(client: OpenAI, router: Router) -> None:
    wrapped = wrap(client, router, scopes={"team": "search"}, tags=["batch"])
    wrapped.chat.completions.create(
        model="auto",
        messages=HELLO,
        tags=["night"],  # type: ignore[call-overload]
        scopes={"user": "ann"},
    )
    (request,) = router.ledger.log().requests()
    assert request.scopes == {"team": "search", "user": "ann"}
    assert request.tags == ("batch", "night")


def test_tags_and_scopes_of_the_wrong_kind_are_refused_where_they_are_given(
    client: OpenAI, router: Router, provider: Provider
) -> None:
    with pytest.raises(InvalidRequest, match="tags"):
        wrap(client, router, tags="batch")
    with pytest.raises(InvalidRequest, match="scopes"):
        wrap(client, router, scopes=["team"])  # type: ignore[arg-type]
    asked: dict[str, Any] = {"model": "auto", "messages": HELLO}
    create = wrap(client, router, tags=["batch"]).chat.completions.create
    with pytest.raises(InvalidRequest, match="tags"):
        create(**asked, tags="night")
    assert provider.wire == []
    create(**asked, tags=None)
    assert [request.tags for request in router.ledger.log().requests()] == [("batch",)]


def test_a_raw_response_is_refused_with_a_reason(client: OpenAI, router: Router) -> None:
    with pytest.raises(InvalidRequest, match="raw response"):
        wrap(client, router).chat.completions.with_raw_response.create(model="auto", messages=HELLO)


def test_anything_but_an_openai_client_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        wrap("gpt-4")  # type: ignore[type-var]
