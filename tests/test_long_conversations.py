"""Compaction over 200 turns, over HTTP: nothing is lost that a later turn asks for, at less."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conversations import compaction
from scripted_conversation import EVERY, KINDS, Script, script

from router import Router
from tests.conftest import CAPABILITIES, MakeRouter
from tests.pipeline_kit import BUDGET, assert_books_agree, rows
from tests.provider import Behaviour, Provider

TURNS = 200
ASKING = range(
    EVERY - 1, TURNS, EVERY
)  # the turns that ask; only these go over the wire, for speed
COMPACTION = {"min_tokens": 8000, "keep_turns": 4, "target": 0.25}


class BySize(Provider):
    """Bills the characters that it was sent, four a token."""

    def _next(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Behaviour:
        super()._next(path, headers, body)
        read = len(json.dumps(body["messages"])) // 4
        usage = {"prompt_tokens": read, "completion_tokens": 10, "total_tokens": read + 10}
        return Behaviour(usage=usage)


def held(router: Router, told: Script) -> int:
    """Have the conversation; return what it was billed."""
    for turn in ASKING:
        router.completion(messages=told.until(turn), conversation_id="c", max_tokens=64)
    return sum(row.cost for row in rows(router))


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_facts_are_like_200_turns_lose_none_that_is_asked_for(kind: str) -> None:
    found = compaction("openai", kind, TURNS, COMPACTION, sentences=3)
    assert found["asked_later"] == TURNS // EVERY
    assert found["lost"] == 0
    assert found["compactions"] > 2


def test_over_the_wire_200_turns_cost_less_and_lose_nothing(make_router: MakeRouter) -> None:
    provider, told = BySize(), script("prose", TURNS, seed=7, sentences=3)
    one = {
        "tiers": {
            "mini": [
                {
                    "model": "openai/t-mini", "api_base": provider.url,
                    "price": {"input": "0.75", "output": "4.5"},
                    "capabilities": {**CAPABILITIES, "context_window": 400_000},
                }
            ]
        },
        "baseline": "mini", "objective": {"cost_weight": 0},
        "budgets": [{**BUDGET[0], "limit": "100.00"}],
    }  # fmt: skip
    short = held(router := make_router(**one, compaction=COMPACTION), told)
    for turn, (_, _, body) in zip(ASKING, provider.wire, strict=True):
        assert str(told.asked(turn)) in json.dumps(body["messages"])
        calls = [c["id"] for m in body["messages"] for c in m.get("tool_calls") or ()]
        results = [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"]
        assert calls == results
        assert body["messages"][0] == told.messages[0]
    assert_books_agree(router, provider)
    whole = sum(len(json.dumps(told.until(turn))) // 4 * 750 + 10 * 4500 for turn in ASKING)
    assert short < 0.9 * whole
    provider.close()
