"""A history that one model wrote goes to another: what is stripped, what stays, what is refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.conversations.portable import fitted
from router.turns import Turn
from tests.conftest import MakeRouter
from tests.provider import Provider

CLAUDE, GPT, GEMINI, MISTRAL = (
    "anthropic/claude-sonnet-5", "openai/gpt-5.4", "gemini/gemini-3.5-flash",
    "mistral/mistral-large-4",
)  # fmt: skip
BLOCKS = [
    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "x"},
]


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}, **more}


def calling(name: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call(name)], **more}


def result(name: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": "done"}


def user(text: str = "go on") -> dict[str, Any]:
    return {"role": "user", "content": text}


def turn(model: str, since: int = 0) -> Turn:
    return Turn(turns=1, arm="x", model=model, since=since)


def test_to_the_same_model_a_history_goes_as_it_is() -> None:
    history = [user(), calling("call_1", thinking_blocks=BLOCKS), result("call_1")]
    arguments = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    messages, found = fitted(history, arguments, CLAUDE, turn(CLAUDE))
    assert messages is history
    assert found is arguments


def test_another_model_gets_no_signature_reasoning_item_or_thought() -> None:
    history = [
        user(),
        {
            "role": "assistant",
            "content": [*BLOCKS, {"type": "text", "text": "it is 4"}],
            "thinking_blocks": BLOCKS,
            "reasoning_content": "hm",
            "reasoning_items": [{"id": "rs_1", "encrypted_content": "zz"}],
            "provider_specific_fields": {"thought_signatures": ["a"]},
            "tool_calls": [
                call("c1__thought__c2ln", provider_specific_fields={"thought_signature": "a"}),
                call("c2", extra_content={"google": {"thought_signature": "a"}}),
            ],
        },
        result("c1__thought__c2ln"),
        result("c2"),
        user(),
    ]
    before = copy.deepcopy(history)
    messages, _ = fitted(history, {}, GPT, turn(CLAUDE))
    assert history == before
    assert messages[1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "it is 4"}],
        "tool_calls": [call("c1"), call("c2")],
    }
    assert [each.get("tool_call_id") for each in messages[2:]] == ["c1", "c2", None]


def test_after_a_switch_back_only_what_was_written_since_keeps_its_signature() -> None:
    one, two = ({"role": "assistant", "content": t, "thinking_blocks": BLOCKS} for t in "ab")
    messages, _ = fitted([user(), one, user(), two, user()], {}, CLAUDE, turn(CLAUDE, since=3))
    assert "thinking_blocks" not in messages[1]
    assert messages[3] is two


def test_what_cannot_be_this_models_is_stripped_though_nobody_knows_who_wrote_it() -> None:
    signed = {"role": "assistant", "content": "a", "thinking_blocks": BLOCKS}
    items = {"role": "assistant", "content": "b", "reasoning_items": [{"id": "rs_1"}]}
    history = [user(), signed, user(), items, user()]
    to_claude, _ = fitted(history, {}, CLAUDE, None)
    assert to_claude[1] is signed
    assert "reasoning_items" not in to_claude[3]
    to_gpt, _ = fitted(history, {}, GPT, Turn())
    assert "thinking_blocks" not in to_gpt[1]
    assert to_gpt[3] is items


def test_a_message_of_nothing_but_thoughts_is_left_out() -> None:
    thoughts = {"role": "assistant", "content": BLOCKS, "thinking_blocks": BLOCKS}
    messages, _ = fitted([user(), thoughts, user("2")], {}, GPT, turn(CLAUDE))
    assert messages == [user(), user("2")]


def test_claude_does_not_think_in_a_turn_of_tools_that_another_model_began() -> None:
    old = {"role": "assistant", "content": "a", "thinking_blocks": BLOCKS}
    history = [user(), old, user(), calling("call_1"), result("call_1")]
    asked = {"thinking": {"type": "enabled"}, "reasoning_effort": "low", "temperature": 1}
    messages, arguments = fitted(history, asked, CLAUDE, turn(GPT))
    assert arguments == {"temperature": 1}
    assert not any("thinking_blocks" in message for message in messages)
    assert messages[3:] == history[3:]
    _, done = fitted([*history, user()], asked, CLAUDE, turn(GPT))  # the turn is over
    assert done == asked


def test_marks_go_only_where_they_mean_something() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    history = [{"role": "system", "content": [{"type": "text", "text": "a", **mark}]}, user()]
    tools = {"tools": [{"type": "function", "function": {"name": "f"}, **mark}]}
    assert fitted(history, tools, CLAUDE, turn(GPT)) == (history, tools)
    messages, arguments = fitted(history, tools, GPT, turn(CLAUDE))
    assert messages[0]["content"] == [{"type": "text", "text": "a"}]
    assert "cache_control" not in arguments["tools"][0]


def keys_and_types(value: Any) -> Iterator[str]:
    """The keys of everything within a value, and what content says that it is."""
    if isinstance(value, dict):
        yield from value
        yield str(value.get("type", ""))
        for each in value.values():
            yield from keys_and_types(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from keys_and_types(each)


ACCEPTED = {
    CLAUDE: r"[a-zA-Z0-9_-]+",
    MISTRAL: r"[a-zA-Z0-9]{9}",
    GPT: r"(?s).{1,40}",
    GEMINI: r"(?s).+",
}
IDS = st.one_of(
    st.text(min_size=1, max_size=60),
    st.from_regex(r"call_[a-z0-9]{8}(__thought__[A-Za-z0-9+/=]{4,60})?", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9]{9}", fullmatch=True),
)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(IDS, min_size=1, max_size=8, unique=True))
    history: list[dict[str, Any]] = [{"role": "system", "content": "be brief"}, user("first")]
    while names:
        some, names = names[:2], names[2:]
        extra = draw(
            st.sampled_from(
                [{}, {"thinking_blocks": BLOCKS}, {"reasoning_content": "hm"},
                 {"reasoning_items": [{"id": "rs"}]},
                 {"provider_specific_fields": {"thought_signature": "s"}}]
            )
        )  # fmt: skip
        history.append(
            {"role": "assistant", "content": draw(st.sampled_from([None, "text"])),
             "tool_calls": [call(name) for name in some], **extra}
        )  # fmt: skip
        history += [result(name) for name in some]
        if draw(st.booleans()):
            history += [{"role": "assistant", "content": draw(st.sampled_from(["ok", BLOCKS]))}]
            history += [user(f"turn {len(history)}")]
    return history


@given(
    histories(),
    st.sampled_from([CLAUDE, GPT, GEMINI, MISTRAL, "groq/openai/gpt-oss-20b"]),
    st.sampled_from([None, Turn(), turn(CLAUDE), turn(GPT, 4), turn(MISTRAL), turn(GEMINI)]),
)
def test_whatever_the_history_every_result_keeps_its_call_and_no_word_is_lost(
    history: list[dict[str, Any]], model: str, known: Turn | None
) -> None:
    before = copy.deepcopy(history)
    messages, _ = fitted(history, {}, model, known)
    assert history == before

    calls = [each["id"] for m in messages for each in m.get("tool_calls") or ()]
    results = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    was = [each["id"] for m in history for each in m.get("tool_calls") or ()]
    answered = [m["tool_call_id"] for m in history if m["role"] == "tool"]
    assert len(calls) == len(was)
    assert len(set(calls)) == len(set(was))
    assert [calls.index(name) for name in results] == [was.index(name) for name in answered]
    pattern = re.compile(ACCEPTED.get(model, r"(?s).+"))
    assert all(pattern.fullmatch(name) for name in calls)
    assert all(len(new) <= max(len(old) + 8, 9) for new, old in zip(calls, was, strict=True))

    def words(some: Any) -> list[tuple[str, str]]:
        return [(m["role"], m["content"]) for m in some if isinstance(m.get("content"), str)]

    assert words(messages) == words(history)
    again, _ = fitted(messages, {}, model, known)
    assert len(again) == len(messages)
    if known is not None and known.model not in ("", model):
        theirs = ("thinking", "reasoning", "signature", "thought", "redacted")
        assert [key for key in keys_and_types(messages) if key.startswith(theirs)] == []


@pytest.mark.parametrize("stream", [False, True])
def test_over_the_wire_a_switch_strips_and_the_callers_list_stays(
    make_router: MakeRouter, provider: Provider, stream: bool
) -> None:
    router = make_router(
        rules=[
            {"name": "start", "when": {"tags": ["start"]}, "tier": "mini"},
            {"name": "then", "when": {"tags": ["then"]}, "tier": "mid"},
        ]
    )
    router.completion(messages=[user("first")], conversation_id="c", tags=["start"])
    history = [
        user("first"),
        {"role": "assistant", "content": "ok", "reasoning_content": "hm"},
        user("second"),
    ]
    before = copy.deepcopy(history)
    for tag in ("start", "then"):
        answer = router.completion(messages=history, conversation_id="c", tags=[tag], stream=stream)
        if stream:
            assert list(answer)
    assert history == before
    same, other = (body["messages"][1] for _, _, body in provider.wire[1:])
    assert same["reasoning_content"] == "hm"
    assert other == {"role": "assistant", "content": "ok"}
