"""Odd but legal calls and surroundings: each is bounded, billed and closed like any other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import litellm
import pytest

from router import Router
from router.dispatch.wire import load_litellm
from router.errors import (
    LedgerUnavailable,
    MalformedReply,
    PolicyError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
)
from router.policy import load_policy
from router.policy.deployment import UNBOUNDED
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import BUDGET, PIN_NANO, assert_books_agree, rows
from tests.provider import Behaviour, Provider, ok, status
from tests.test_votes import QUESTION, RIGHT, voting

ONCE: dict[str, Any] = {"rules": [PIN_NANO], "retry": {"attempts": 1}}
CALLS = [{"name": "calls", "requests": 5, "window": "day"}]
CUSTOM = {"id": "c", "type": "custom", "custom": {"name": "run", "input": "print(1)"}}


# ── nothing goes round the bound ───────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", [name for name in UNBOUNDED if name not in (
    "extra_body", "max_output_tokens", "web_search_options")])  # fmt: skip
def test_a_deployment_under_a_limit_has_no_argument_whose_cost_nothing_bounds(name: str) -> None:
    policy = ladder("http://127.0.0.1:9")
    policy["tiers"]["mini"][0]["params"] = {name: True}
    load_policy({**policy, "budgets": []})
    for limit in ({"limit": "1.00"}, {"tokens": 5}):
        with pytest.raises(PolicyError, match=rf"tiers\.mini\.0\.params\.{name}"):
            load_policy({**policy, "budgets": [{"name": "a", "window": "day", **limit}]})


def test_a_limit_on_tokens_counts_those_that_may_come_beyond_the_cap(
    make_router: MakeRouter, provider: Provider
) -> None:
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0]["capabilities"]["reasoning_beyond_cap"] = 5000
    budgets = [{"name": "tokens", "tokens": 1000, "window": "total", "on_exceed": "block"}, *BUDGET]
    router = make_router(tiers=tiers, budgets=budgets, **ONCE)
    with pytest.raises(Exception, match="tokens"):
        router.completion(messages=HELLO, max_tokens=50)
    assert provider.wire == []


# ── every request on the wire is in the books ──────────────────────────────────────────────────
def test_litellms_own_retries_are_off_whatever_the_program_has_set(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(budgets=BUDGET, **ONCE)
    monkeypatch.setattr(litellm, "num_retries", 2)
    provider.script("t-nano", ok(cut=True), ok(cut=True), ok())
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    assert len(provider.wire) == 1
    assert_books_agree(router, provider)


@pytest.mark.parametrize("over", ["aiohttp", "httpx"])
@pytest.mark.parametrize("model", ["openai/m", "anthropic/m"])
@pytest.mark.parametrize("broken", [ok(reset=True), ok(cut=True)], ids=["reset", "closed"])
def test_a_call_whose_connection_broke_is_not_sent_again_unasked_and_is_charged(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch,
    broken: Behaviour, model: str, over: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", over == "httpx")
    litellm.in_memory_llm_clients_cache.flush_cache()
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0]["model"] = model
    monkeypatch.setenv("A_KEY", "k")
    tiers["nano"][0]["api_key_env"] = "A_KEY"
    router = make_router(tiers=tiers, budgets=BUDGET, **ONCE)
    provider.default = broken
    with pytest.raises(ProviderUnavailable) as failed:
        asyncio.run(router.acompletion(messages=HELLO))
    assert failed.value.request_written
    assert len(provider.wire) == 1
    assert [row.cost for row in rows(router)] == [rows(router)[0].reserved]
    assert_books_agree(router, provider)


def test_a_programs_own_calls_through_litellm_are_sent_again_as_ever(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_litellm()
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", True)
    litellm.in_memory_llm_clients_cache.flush_cache()
    provider.default = ok(cut=True)
    own = {"model": "anthropic/m", "messages": HELLO, "api_base": provider.url, "api_key": "k"}
    with pytest.raises(litellm.InternalServerError):
        asyncio.run(litellm.acompletion(**own, num_retries=0, max_retries=0))
    assert len(provider.wire) == 2


def _through(router: Router, door: str) -> Any:
    if door == "sync":
        return router.completion(messages=HELLO)
    return asyncio.run(router.acompletion(messages=HELLO))


@pytest.mark.parametrize("door", ["sync", "async"])
def test_what_never_got_through_a_servers_tls_costs_nothing(
    make_router: MakeRouter, provider: Provider, door: str
) -> None:
    tiers = ladder(provider.url.replace("http:", "https:"))["tiers"]
    router = make_router(tiers=tiers, budgets=BUDGET, **ONCE)
    with pytest.raises(ProviderUnavailable):
        _through(router, door)
    assert [row.cost for row in rows(router)] == [0]
    assert [state.held for state in router.budgets()] == [0]


@pytest.mark.parametrize("door", ["sync", "async"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [(429, RateLimited), (400, RequestRejected), (502, MalformedReply), (None, MalformedReply)],
)
def test_an_error_in_the_place_of_an_answer_is_told_and_charged_since_nobody_says_it_was_free(
    make_router: MakeRouter, provider: Provider, code: int | None, kind: type[Exception], door: str
) -> None:
    router = make_router(budgets=BUDGET, **ONCE)
    error = {"error": {"message": "upstream is busy", "code": code}}
    provider.default = ok(body=json.dumps(error).encode())
    with pytest.raises(kind, match="upstream is busy"):
        _through(router, door)
    assert [row.cost for row in rows(router)] == [rows(router)[0].reserved]
    assert_books_agree(router, provider)


def _handling(outside: Exception, call: Any) -> None:
    """Call from a handler of another error, as a program does that falls back on the router."""
    try:
        raise outside
    except type(outside):
        call()


REQUEST = httpx.Request("GET", "http://elsewhere")


@pytest.mark.parametrize(
    "outside",
    [
        httpx.ConnectError("another server's"),
        httpx.HTTPStatusError(
            "another server's", request=REQUEST, response=httpx.Response(404, request=REQUEST)
        ),
    ],
    ids=["no connection", "status"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_a_failure_costs_is_not_read_off_the_errors_that_the_caller_is_handling(
    make_router: MakeRouter, provider: Provider, outside: Exception, stream: bool
) -> None:
    router = make_router(budgets=BUDGET, **ONCE)
    provider.script("t-nano", ok(cut=True))

    def call() -> None:
        answer = router.completion(messages=HELLO, stream=stream)
        if stream:
            list(answer)

    with pytest.raises((ProviderUnavailable, ProviderTimeout, MalformedReply)) as failed:
        _handling(outside, call)
    assert failed.value.request_written
    [row] = rows(router)
    assert row.cost == row.reserved > 0
    assert_books_agree(router, provider)


@pytest.mark.parametrize("said", ["Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_a_time_to_come_back_is_read_in_every_form_that_http_allows(
    make_router: MakeRouter, provider: Provider, said: str
) -> None:
    router = make_router(budgets=BUDGET, **ONCE)
    provider.script("t-nano", Behaviour(status=429, headers={"retry-after": said}, body=b"{}"))
    with pytest.raises(RateLimited) as limited:
        router.completion(messages=HELLO)
    assert limited.value.retry_after == 0  # long ago
    assert [row.cost for row in rows(router)] == [0]


# ── custom tools ───────────────────────────────────────────────────────────────────────────────
def test_a_custom_tools_call_is_handed_out_and_closes_its_request(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(budgets=CALLS, **ONCE)
    provider.default = ok(tool_calls=[CUSTOM])
    tools = [{"type": "custom", "custom": {"name": "run"}}]
    answer = router.completion(messages=HELLO, tools=tools)
    assert answer.choices[0].message.tool_calls
    [row] = rows(router)
    assert row.status == "answered"
    assert [state.held for state in router.budgets()] == [0]


# ── votes ──────────────────────────────────────────────────────────────────────────────────────
def test_samples_that_were_reserved_before_the_store_went_away_are_released(
    make_router: MakeRouter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(**voting(provider.url, {"samples": 5, "at_once": True}))
    real, asked = router.ledger.reserve, []

    def reserve(reservation: Any) -> Any:
        asked.append(reservation)
        if len(asked) == 3:
            raise LedgerUnavailable("sqlite", "it is busy")
        return real(reservation)

    monkeypatch.setattr(router.ledger, "reserve", reserve)
    with pytest.raises(LedgerUnavailable):
        router.completion(messages=QUESTION)
    assert provider.wire == []
    assert {state.held for state in router.budgets()} == {0}
    assert {row.cost for row in rows(router)} == {0}


def test_a_sample_without_choices_is_one_that_names_no_answer(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(**voting(provider.url))
    usage = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
    empty = {"id": "x", "object": "chat.completion", "created": 1, "model": "t-nano",
             "choices": [], "usage": usage}  # fmt: skip
    provider.default = RIGHT
    provider.script("t-nano", ok(body=json.dumps(empty).encode()))
    answer = router.completion(messages=QUESTION)
    assert answer.choices[0].message.content == "The answer is 16."
    assert_books_agree(router, provider)


# ── a ceiling on the request ───────────────────────────────────────────────────────────────────
CEILING = {"objective": {"max_cost_per_request": "0.0007"}}  # room for one attempt


def test_a_requests_ceiling_holds_over_its_retries(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], budgets=BUDGET, **CEILING)
    provider.script("t-nano", ok(cut=True), ok(cut=True), ok())
    with pytest.raises(ProviderUnavailable):
        router.completion(messages=HELLO)
    assert len(provider.wire) == 1
    assert sum(row.cost for row in rows(router)) <= 700_000
    assert_books_agree(router, provider)


def test_a_requests_ceiling_holds_over_a_retry_that_costs_nothing(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], budgets=BUDGET, **CEILING)
    provider.script("t-nano", status(500), status(500), ok())
    assert router.completion(messages=HELLO).choices
    assert len(provider.wire) == 3


def test_a_requests_ceiling_holds_over_the_repeat_of_a_cut_answer(
    make_router: MakeRouter, provider: Provider
) -> None:
    router = make_router(rules=[PIN_NANO], budgets=BUDGET, reserve="predicted", **CEILING)
    usage = {"prompt_tokens": 20, "completion_tokens": 256, "total_tokens": 276}
    provider.script("t-nano", ok(text="half", finish_reason="length", usage=usage), ok())
    answer = router.completion(messages=HELLO)
    assert sum(row.cost for row in rows(router)) <= 700_000
    assert answer.choices[0].message.content == "half"  # all that the ceiling paid for


# ── what cannot be sent ────────────────────────────────────────────────────────────────────────
SCHEMA = {"type": "function", "function": {"name": "f", "parameters": {"x": {1}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "\ud800"}'}}
TOLD = [
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "yes"},
]


@pytest.mark.parametrize(
    "arguments",
    [
        {"messages": HELLO, "tools": [SCHEMA]},
        {"messages": [*HELLO, *TOLD]},
        {"messages": HELLO, "temperature": float("nan")},
    ],
    ids=["a set in a schema", "a lone surrogate in a call", "no number"],
)
def test_what_has_no_form_on_the_wire_is_the_callers_error_and_costs_nothing(
    make_router: MakeRouter, provider: Provider, arguments: dict[str, Any]
) -> None:
    router = make_router(budgets=BUDGET)
    with pytest.raises(RequestRejected):
        router.completion(**arguments)
    assert provider.wire == []
    assert [row.cost for row in rows(router)] == [0]
    assert [state.held for state in router.budgets()] == [0]
