"""Other providers' own wire formats: what they report is what is charged, streamed or not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from router import Router
from tests.conftest import HELLO, MakeRouter, ladder
from tests.pipeline_kit import BUDGET, PIN_NANO, assert_books_agree, rows
from tests.provider import Behaviour, Provider

PRICE = {
    "input": "3",
    "output": "15",
    "cache_read": "0.3",
    "cache_write_5m": "3.75",
    "cache_write_1h": "6",
}
# 100 fresh, 1,000 read, 200 and 50 written for 5 minutes and an hour, 40 out; nano-USD a token.
ANTHROPIC_BILL = 100 * 3000 + 1000 * 300 + 200 * 3750 + 50 * 6000 + 40 * 15000
ANTHROPIC_USAGE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 250,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 50},
    "output_tokens": 40,
}
# 80 of 100 prompt tokens cached; 10 visible and 30 thinking tokens out.
GEMINI_BILL = 20 * 3000 + 80 * 300 + 40 * 15000
GEMINI_USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 80,
    "candidatesTokenCount": 10,
    "thoughtsTokenCount": 30,
    "totalTokenCount": 140,
}
LONG = [{"role": "user", "content": "A long and cached prefix. " * 200 + HELLO[0]["content"]}]


def events(parts: Iterable[dict[str, Any]], *, named: bool) -> bytes:
    lines = []
    for part in parts:
        name = f"event: {part['type']}\n" if named else ""
        lines.append(f"{name}data: {json.dumps(part)}\n\n")
    return "".join(lines).encode()


def anthropic(stream: bool) -> Behaviour:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": "Bonjour"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": ANTHROPIC_USAGE,
    }
    if not stream:
        return Behaviour(body=json.dumps(message).encode())
    begun = {**message, "content": [], "usage": {**ANTHROPIC_USAGE, "output_tokens": 1}}
    parts: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Bonjour"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 40},
        },
        {"type": "message_stop"},
    ]
    return Behaviour(body=events(parts, named=True), content_type="text/event-stream")


def gemini(stream: bool) -> Behaviour:
    answer = {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": "Bonjour"}]},
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": GEMINI_USAGE,
        "modelVersion": "gemini-test",
    }
    if not stream:
        return Behaviour(body=json.dumps(answer).encode())
    return Behaviour(body=events([answer], named=False), content_type="text/event-stream")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("model", "behave", "bill"),
    [
        ("anthropic/claude-test", anthropic, ANTHROPIC_BILL),
        ("gemini/gemini-test", gemini, GEMINI_BILL),
    ],
    ids=["anthropic", "gemini"],
)
def test_a_providers_own_report_is_charged_to_the_nano_dollar(
    make_router: MakeRouter,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    behave: Any,
    bill: int,
    stream: bool,
) -> None:
    monkeypatch.setenv("SOME_KEY", "k")
    tiers = ladder(provider.url)["tiers"]
    tiers["nano"][0].update(
        model=model,
        price=PRICE,
        api_key_env="SOME_KEY",
        api_base=provider.url.removesuffix("/v1"),
    )
    router = make_router(tiers=tiers, rules=[PIN_NANO], budgets=BUDGET)
    provider.default = behave(stream)
    reply = router.completion(messages=LONG, stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in reply)
    else:
        text = reply.choices[0].message.content
    assert text == "Bonjour"
    (row,) = rows(router)
    assert (row.cost, row.cost_source) == (bill, "computed")
    assert row.cost <= row.reserved
    assert Router.decision(reply).attempts == 1
    assert_books_agree(router, provider)
